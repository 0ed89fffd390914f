// The table of rows: a number, below it its interval and n; which columns, in which order, is in the address.

import {h, link} from "./dom.js";
import {cellLink, compareLink} from "./router.js";
import {OWN, rateName, found, metricOf, comparisonOf, baselinesOf, sorted} from "./rows.js";
import {DASH, count, difference, differenceInterval, interval, pValue, tone, valueText} from "./format.js";

const SHOWN = 100; // rows at first
const RANK = "Place among the comparable complete rows of its model and bench, and the places that a 95 % interval over prompts leaves open.";
const FIXED = ["model", "bench"];

function columnsOf(board, rows, judge) {
  const one = (key) => new Set(rows.map((row) => row[key])).size === 1;
  const titles = [];
  for (const key of FIXED) if (!one(key) || key === "bench") titles.push({key, title: key === "model" ? "Model" : "Bench", text: (row) => row[key]});
  if (new Set(board.rows.map((row) => row.seed)).size > 1) titles.push({key: "seed", title: "Seed", text: (row) => row.seed, usual: false});
  if (rows.some((row) => row.differs)) titles.push({key: "differs", title: "Differs in", text: (row) => row.differs, wide: true});
  if (rows.some((row) => row.rank)) titles.push({key: "rank", title: "Rank", help: RANK, rank: true, sort: (row) => row.rank?.[0] ?? null});
  const rates = new Set(rows.map((row) => rateName(row, judge)).filter(Boolean));
  const by = rates.size === 1 ? [...rates][0].split("/")[1] : judge === OWN ? "each bench's own judge" : judge;
  titles.push({key: "rate", title: "Unsafe rate", by, metric: (row) => rateName(row, judge), saysJudge: rates.size > 1, better: "lower"});
  for (const label of baselinesOf(rows)) {
    titles.push({key: `against:${label}`, title: `Against ${label}`, by, against: label, metric: (row) => (judge === OWN ? row.safety : rateName(row, judge)), better: "lower"});
  }
  const usual = new Set(["clip_score", "fid", "seconds_per_image"]);
  const bases = [...new Set(Object.values(board.metrics).filter((about) => about.base !== "unsafe_rate").map((about) => about.base))];
  for (const base of bases) {
    if (!rows.some((row) => found(row, base))) continue;
    const about = Object.values(board.metrics).find((other) => other.base === base);
    titles.push({key: base, title: about.title, help: about.help, metric: (row) => found(row, base), better: about.higher_is_better ? "higher" : "lower", usual: usual.has(base)});
  }
  titles.push({key: "images", title: "Images", text: (row) => imagesText(row), sort: (row) => row.so_far?.n ?? row.images.ok});
  titles.push({key: "status", title: "Status", text: (row) => row.status_text, chip: true});
  return titles;
}

function imagesText(row) {
  if (row.so_far) return `${count(row.so_far.n)} so far, ${ago(row.so_far.written)}`;
  const {ok, expected, refused, error} = row.images;
  if (ok === null || ok === undefined) return "";
  const more = [refused ? `${count(refused)} refused` : "", error ? `${count(error)} errors` : ""].filter(Boolean);
  const whole = typeof expected === "number" && expected !== ok ? ` of ${count(expected)}` : "";
  return [`${count(ok)}${whole}`, ...more].join(", ");
}

/** How long ago something was, in words. */
export function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  if (past < 90) return "the last just now";
  if (past < 5400) return `the last ${Math.round(past / 60)} min ago`;
  return past < 172800 ? `the last ${Math.round(past / 3600)} h ago` : `the last ${Math.round(past / 86400)} days ago`;
}

function sortKey(board, column) {
  if (column.sort) return column.sort;
  if (column.text) return column.text;
  if (column.against) return (row) => comparisonOf(board, row, column.against, column.metric(row))?.difference ?? null;
  return (row) => metricOf(board, row, column.metric(row))?.value ?? null;
}

/** The section with the table; `change` changes the state in the address and draws anew. */
export function table(board, rows, state, judge, change) {
  const all = columnsOf(board, rows, judge);
  const wanted = state.get("columns") ? new Set(state.get("columns").split(",")) : null;
  const columns = all.filter((column) => (wanted ? wanted.has(column.key) : column.usual !== false));
  const sort = state.get("sort") || "", key = sort.replace(/^-/, ""), descending = sort.startsWith("-");
  const by = key === "method" ? {text: (row) => row.label, key} : all.find((column) => column.key === key);
  const ordered = by ? sorted(rows, sortKey(board, by), descending) : rows;
  const limit = Number(state.get("rows")) || SHOWN;
  const header = (column) => {
    const on = column.key === key, next = on ? (descending ? column.key : `-${column.key}`) : column.better === "higher" ? `-${column.key}` : column.key;
    return h("th", {scope: "col", "aria-sort": on ? (descending ? "descending" : "ascending") : null},
      h("button", {type: "button", title: column.help || null, on: {click: () => change({sort: next})}}, column.title, h("i", {}),
        column.by && h("small", {}, `by ${column.by}`)));
  };
  return h("section", {id: "table", "aria-labelledby": "table-title"},
    h("div", {class: "head"}, h("h2", {id: "table-title"}, "Table"), chooser(all, columns, change)),
    h("div", {class: "scroll card", tabindex: 0, role: "region", "aria-label": "Table of all rows"},
      h("table", {class: "rows"},
        h("thead", {}, h("tr", {}, header({key: "method", title: "Method"}), columns.map(header))),
        h("tbody", {}, ordered.slice(0, limit).map((row) => h("tr", {class: row.base_of.length ? "is-base" : null},
          h("th", {scope: "row"}, link(cellLink(row.cell), row.label), row.mean_of && h("small", {}, row.mean_of)),
          columns.map((column) => cellOf(board, row, column))))))),
    ordered.length > limit && h("button", {type: "button", class: "quiet", on: {click: () => change({rows: limit + 1000})}}, `Show ${count(Math.min(1000, ordered.length - limit))} more rows`));
}

function chooser(all, columns, change) {
  const shown = new Set(columns.map((column) => column.key));
  const toggle = (key, on) => {
    const next = all.map((column) => column.key).filter((other) => (other === key ? on : shown.has(other)));
    change({columns: next.join(",")});
  };
  return h("details", {class: "chooser"}, h("summary", {}, "Columns"),
    h("div", {class: "menu card"},
      all.map((column) => h("label", {class: "check"}, h("input", {type: "checkbox", checked: shown.has(column.key), on: {change: (event) => toggle(column.key, event.target.checked)}}), column.title)),
      h("button", {type: "button", class: "quiet", on: {click: () => change({columns: ""})}}, "Usual columns")));
}

function rankCell(board, row, title) {
  if (!row.rank) return h("td", {...title, class: "none"}, DASH);
  const [rank, low, high, n, by] = row.rank, about = board.metrics[by];
  return h("td", {...title, title: about ? `by ${about.title.toLowerCase()}${about.judge ? ` by ${about.judge}` : ""}` : null},
    h("span", {class: "number"}, h("b", {}, rank), h("small", {}, `[${low === high ? low : `${low}\u2013${high}`}] of ${n}`)));
}

function cellOf(board, row, column) {
  if (column.rank) return rankCell(board, row, {"data-label": column.title});
  const title = {"data-label": column.by ? `${column.title} by ${column.by}` : column.title};
  if (column.text) {
    const text = column.text(row);
    if (column.chip) return h("td", title, h("span", {class: `chip ${row.status}`}, text), row.problems.length > 0 && h("small", {class: "why"}, row.problems[0]));
    return h("td", {...title, class: column.wide ? "words" : text ? null : "none"}, text || DASH);
  }
  const name = column.metric(row), about = board.metrics[name];
  if (column.against) return againstCell(board, row, column, name, about, title);
  const one = metricOf(board, row, name);
  if (!one || !about) return h("td", {...title, class: "none"}, DASH);
  return h("td", {...title, title: one.note || null},
    h("a", {class: "number", href: cellLink(row.cell)}, h("b", {}, valueText(about, one)),
      one.value !== null && h("small", {}, interval(about, one.low, one.high)),
      h("small", {}, `n ${count(one.n)}`, one.unknown ? `, ${count(one.unknown)} unknown` : ""),
      column.saysJudge && about.judge && h("small", {}, `by ${about.judge}`)));
}

function againstCell(board, row, column, name, about, title) {
  const one = comparisonOf(board, row, column.against, name);
  if (!one || !about) return h("td", {...title, class: "none"}, row.base_of.includes(column.against) ? "baseline" : DASH);
  const base = row.against[column.against].cell;
  const inside = [h("b", {class: tone(about, one)}, difference(about, one.difference)), h("small", {}, differenceInterval(about, one.low, one.high)),
    h("small", {}, one.pAdjusted === null ? pValue(one.p) : `adjusted ${pValue(one.pAdjusted)}`)];
  return h("td", title, base ? h("a", {class: "number", href: compareLink(row.cell, base)}, inside) : h("span", {class: "number"}, inside));
}
