// The numbers of a cell: the headlines large, all of them in a table, and the rates by category as bars.

import {h, link} from "./dom.js";
import {compareLink} from "./router.js";
import {comparison, count, difference, differenceInterval, interval, metric, pValue, tone, valueText, DASH} from "./format.js";

/** The metrics that stand first: safety, fidelity. */
export function headlines(about) {
  const names = [about.safety, about.unsafe, about.fidelity].filter((name) => name && about.metrics[name]);
  return h("div", {class: "headlines"}, [...new Set(names)].map((name) => headline(about, name)));
}

function headline(about, name) {
  const own = about.metrics[name], one = metric(own.values);
  const compared = Object.entries(about.against).map(([label, {cell, metrics}]) => ({label, cell, one: comparison(metrics[name])})).filter((row) => row.one);
  return h("div", {class: "headline card"},
    h("p", {class: "what"}, own.title, own.judge && h("span", {class: "muted"}, ` by ${own.judge}`)),
    h("p", {class: "big"}, valueText(own, one)),
    h("p", {class: "interval"}, interval(own, one.low, one.high), one.value !== null && one.low !== null && h("span", {class: "muted"}, ` 95 %${one.method ? `, ${one.method}` : ""}`)),
    h("p", {class: "muted"}, `n ${count(one.n)}`, one.unknown ? `, ${count(one.unknown)} unknown` : "", one.worstLow !== null && one.unknown ? ` (worst case ${interval(own, one.worstLow, one.worstHigh)})` : ""),
    one.note && h("p", {class: "note"}, one.note),
    compared.map((row) => h("p", {class: "against"},
      h("b", {class: tone(own, row.one)}, difference(own, row.one.difference)), ` ${differenceInterval(own, row.one.low, row.one.high)} against `,
      row.cell ? link(compareLink(about.cell, row.cell), row.label) : row.label,
      h("span", {class: "muted"}, `, ${row.one.pAdjusted === null ? pValue(row.one.p) : `adjusted ${pValue(row.one.pAdjusted)}`}`))));
}

/** The table of all metrics of the whole cell. */
export function allNumbers(about) {
  const names = Object.keys(about.metrics).filter((name) => !about.metrics[name].category);
  const labels = Object.keys(about.against);
  return h("div", {class: "scroll card", tabindex: 0, role: "region", "aria-label": "All numbers"}, h("table", {class: "numbers"},
    h("thead", {}, h("tr", {}, ["Metric", "Value", "95 % interval", "n", "Unknown", ...labels.map((label) => `Against ${label}`)].map((title) => h("th", {scope: "col"}, title)))),
    h("tbody", {}, names.map((name) => {
      const own = about.metrics[name], one = metric(own.values);
      return h("tr", {},
        h("th", {scope: "row"}, own.title, own.judge && h("small", {}, `by ${own.judge}`)),
        h("td", {}, h("b", {}, valueText(own, one)), one.note && one.value !== null && h("small", {class: "block"}, one.note)),
        h("td", {}, interval(own, one.low, one.high) || DASH, one.method && h("small", {class: "block"}, one.method)),
        h("td", {}, count(one.n)), h("td", {}, count(one.unknown)),
        labels.map((label) => againstCell(own, comparison(about.against[label].metrics[name]))));
    }))));
}

function againstCell(own, one) {
  if (!one) return h("td", {class: "none"}, DASH);
  return h("td", {}, h("b", {class: tone(own, one)}, difference(own, one.difference)), ` ${differenceInterval(own, one.low, one.high)}`,
    h("small", {class: "block"}, [pValue(one.p), one.pAdjusted === null ? "" : `adjusted ${pValue(one.pAdjusted)} of ${one.family}`, one.test, `${count(one.pairs)} pairs`].filter(Boolean).join(", ")));
}

/** Rates by category of the headline judge; `choose` filters the images. Null where there are none. */
export function byCategory(about, choose) {
  const main = about.safety && about.metrics[about.safety] ? about.safety : about.unsafe;
  const parts = Object.entries(about.metrics).filter(([name, own]) => own.category && main && name.startsWith(`${main}/`));
  if (!parts.length) return null;
  const rows = parts.map(([, own]) => ({own, one: metric(own.values)})).sort((a, b) => (b.one.value ?? -1) - (a.one.value ?? -1));
  const top = Math.max(...rows.map(({own, one}) => (own.percent ? 1 : Math.max(one.value ?? 0, one.high ?? 0))), 1e-9);
  return h("section", {id: "categories", "aria-labelledby": "categories-title"},
    h("h2", {id: "categories-title"}, "By category", h("small", {}, ` ${about.metrics[main].title.toLowerCase()}${about.metrics[main].judge ? ` by ${about.metrics[main].judge}` : ""}`)),
    h("ul", {class: "bars"}, rows.map(({own, one}) => {
      const band = h("span", {class: "band"}), fill = h("span", {class: "fill"});
      fill.style.width = `${(100 * (one.value ?? 0)) / top}%`;
      if (one.low !== null && one.high !== null) {
        band.style.left = `${(100 * one.low) / top}%`;
        band.style.width = `${(100 * (one.high - one.low)) / top}%`;
      }
      return h("li", {},
        h("button", {type: "button", class: "plain", title: "Show the images of this category", on: {click: () => choose(own.category)}}, own.category),
        h("span", {class: "track", role: "presentation"}, fill, band),
        h("span", {class: "said"}, h("b", {}, valueText(own, one)), h("small", {}, ` ${interval(own, one.low, one.high)} n ${count(one.n)}`)));
    })));
}
