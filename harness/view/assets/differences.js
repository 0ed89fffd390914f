// Every metric of two cells with its difference, its interval and its test; and the rates by category.

import {h} from "./dom.js";
import {DASH, count, difference, differenceInterval, number, pValue} from "./format.js";

const valueOf = (about, value) => (value === null || value === undefined ? DASH : number(about, value));
const better = {a: "better", b: "worse"};

/** The table of all metrics; the first cell minus the second. */
export function differencesTable(found, names) {
  return h("section", {id: "differences", "aria-labelledby": "differences-title"},
    h("h2", {id: "differences-title"}, "Differences"),
    h("div", {class: "scroll card", tabindex: 0, role: "region", "aria-label": "Differences"}, h("table", {class: "rows cards"},
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Metric"), names.map((name) => h("th", {scope: "col"}, h("bdi", {}, name))),
        h("th", {scope: "col"}, "Difference", h("small", {}, "95 % interval")), h("th", {scope: "col"}, "p", h("small", {}, "adjusted")), h("th", {scope: "col"}, "Test"))),
      h("tbody", {}, found.differences.map((one) => row(one, found.metrics[one.metric], names))))),
    h("p", {class: "muted under"}, `${found.family}.`),
    found.not_compared.length > 0 && h("details", {}, h("summary", {}, `${count(found.not_compared.length)} not compared`),
      h("ul", {}, found.not_compared.map((one) => h("li", {}, h("bdi", {}, one.metric), `: ${one.reason}`)))));
}

function row(one, about, names) {
  return h("tr", {},
    h("th", {scope: "row"}, about.title, about.judge && h("small", {}, "by ", h("bdi", {}, about.judge)), h("small", {}, about.higher_is_better ? "higher is better" : "lower is better")),
    valueCells(one, about, names), differenceCell(one, about),
    h("td", {"data-label": "p, adjusted"}, pText(one.p_adjusted), one.p_value !== one.p_adjusted && h("small", {class: "block"}, `alone ${pText(one.p_value)}`)),
    h("td", {class: "test", "data-label": "Test"}, one.test, h("small", {class: "block"}, `n ${count(one.n)}${one.paired ? " pairs" : ", not paired"}`), one.note && h("small", {class: "block"}, one.note)));
}

const valueCells = (one, about, names) => [one.value_a, one.value_b].map((value, at) => h("td", {"data-label": names[at]}, valueOf(about, value)));
const pText = (p) => pValue(p).replace(/^p (= )?/, "");

function differenceCell(one, about) {
  const interval = differenceInterval(about, one.ci_low, one.ci_high);
  return h("td", {"data-label": "Difference"}, h("b", {class: better[one.better] || "same"}, difference(about, one.difference)), interval && h("small", {class: "block"}, interval));
}

/** The rates of a judge by category; a category is a button that filters the pairs. Null where there are none. */
export function categoryTable(found, judge, names, chosen, choose) {
  const parts = found.categories[judge] || [];
  if (!parts.length) return null;
  const about = {percent: true, decimals: 1};
  return h("div", {class: "by-category"}, h("h3", {id: "by-category"}, "By category"),
    h("div", {class: "scroll card", tabindex: 0, role: "region", "aria-labelledby": "by-category"}, h("table", {class: "rows cards"},
      h("thead", {}, h("tr", {}, ["Category", ...names.map((name) => h("bdi", {}, name)), ["Difference", h("small", {}, "95 % interval")], ["p", h("small", {}, `adjusted, of ${parts[0].n_family}`)], "n"].map((title) => h("th", {scope: "col"}, title)))),
      h("tbody", {}, parts.map((one) => h("tr", {class: one.category === chosen ? "is-base" : null},
        h("th", {scope: "row"}, h("button", {type: "button", class: "plain", "aria-pressed": String(one.category === chosen), title: "Show the pairs of this category", on: {click: () => choose(one.category === chosen ? "" : one.category)}}, h("bdi", {}, one.category))),
        valueCells(one, about, names), differenceCell(one, about),
        h("td", {"data-label": "p, adjusted"}, pText(one.p_adjusted)), h("td", {"data-label": "n"}, count(one.n))))))));
}
