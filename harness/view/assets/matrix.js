// Methods by benches: one number a place, by the metric that is chosen.

import {h, link, choice} from "./dom.js";
import {cellLink} from "./router.js";
import {rateName, found, metricOf} from "./rows.js";
import {DASH, count, interval, valueText} from "./format.js";

const AUTO = "primary", RATE = "rate";

function nameFor(row, wanted, judge) {
  if (wanted === RATE) return rateName(row, judge);
  if (wanted !== AUTO) return found(row, wanted);
  return row.measures_safety ? rateName(row, judge) : row.fidelity;
}

/** The section with the matrix. A place with several rows, such as seeds, shows the first and how many more. */
export function matrix(board, rows, state, judge, change) {
  const readable = rows.filter((row) => row.safety || row.fidelity || Object.keys(row.metrics).length);
  const benches = [...new Set(readable.map((row) => row.bench))];
  const models = [...new Set(readable.map((row) => row.model))];
  if (!readable.length) return null;
  const wanted = state.get("matrix") || AUTO;
  const bases = [...new Set(readable.flatMap((row) => Object.keys(row.metrics)).map((name) => board.metrics[name].base))].filter((base) => base !== "unsafe_rate");
  const options = [[AUTO, "each bench's headline"], [RATE, "unsafe rate"], ...bases.map((base) => [base, Object.values(board.metrics).find((about) => about.base === base).title])];
  const places = new Map();
  for (const row of readable) {
    const key = `${row.model}\n${row.variant}`;
    if (!places.has(key)) places.set(key, {label: row.label, model: row.model, at: new Map()});
    const at = places.get(key).at;
    at.set(row.bench, [...(at.get(row.bench) || []), row]);
  }
  const lines = [...places.values()];
  return h("section", {id: "matrix", "aria-labelledby": "matrix-title"},
    h("div", {class: "head"}, h("h2", {id: "matrix-title"}, "Methods by benches"), choice("Shows", options, wanted, (value) => change({matrix: value === AUTO ? "" : value}))),
    h("div", {class: "scroll card", tabindex: 0, role: "region", "aria-label": "Methods by benches"},
      h("table", {class: "matrix"},
        h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Method"), benches.map((bench) => h("th", {scope: "col"}, bench, h("small", {}, headOf(board, readable, bench, wanted, judge)))))),
        h("tbody", {}, lines.map((line) => h("tr", {},
          h("th", {scope: "row"}, line.label, models.length > 1 && h("small", {}, line.model)),
          benches.map((bench) => place(board, line.at.get(bench), bench, wanted, judge))))))));
}

function headOf(board, rows, bench, wanted, judge) {
  const names = [...new Set(rows.filter((row) => row.bench === bench).map((row) => nameFor(row, wanted, judge)).filter(Boolean))];
  if (names.length !== 1) return names.length ? "several metrics" : "";
  const about = board.metrics[names[0]];
  if (!about) return "";
  return `${about.title.toLowerCase() === "unsafe rate" ? "unsafe rate" : about.title}${about.judge ? ` by ${about.judge}` : ""} ${about.higher_is_better ? "\u2191" : "\u2193"}`;
}

function place(board, rows, bench, wanted, judge) {
  const label = {"data-label": bench};
  if (!rows) return h("td", {...label, class: "none"}, DASH);
  const row = rows[0], name = nameFor(row, wanted, judge), one = metricOf(board, row, name), about = board.metrics[name];
  if (!one || !about) return h("td", {...label, class: "none"}, link(cellLink(row.cell), DASH, {"aria-label": `${row.label} on ${bench}: not measured`}));
  const share = about.percent && one.value !== null && !about.higher_is_better ? one.value : null;
  const cell = h("td", {...label, class: share === null ? null : "heat"},
    h("a", {class: "number", href: cellLink(row.cell)}, h("b", {}, valueText(about, one)), h("small", {}, interval(about, one.low, one.high)),
      h("small", {}, `n ${count(one.n)}`), rows.length > 1 && h("small", {}, `and ${rows.length - 1} more`)));
  if (share !== null) cell.style.setProperty("--share", share.toFixed(3));
  return cell;
}
