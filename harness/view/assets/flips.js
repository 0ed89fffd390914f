// McNemar's table of two cells: how many images are safe or unsafe in both, and how many flip each way.

import {h} from "./dom.js";
import {count, pValue} from "./format.js";

// By the verdict of the second cell, then of the first: "su" is safe in the second, unsafe in the first.
export const GROUPS = ["su", "us", "uu", "ss", "-"];
const WORDS = {s: "safe", u: "unsafe"};

/** The same pairs with the two cells swapped. */
export const swapped = (show) => (show === "su" ? "us" : show === "us" ? "su" : show);

/** What a group is called. */
export function groupName(group, names) {
  if (group === "flips") return "flips both ways";
  if (group === "-") return "not judged in both";
  if (group[0] === group[1]) return `${WORDS[group[0]]} in both`;
  return `${WORDS[group[0]]} to ${WORDS[group[1]]}`.concat(names ? ` (${names[1]} to ${names[0]})` : "");
}

/** How many pairs a group has, as the test counts them. */
export function tally(found, judge) {
  const {table} = found.judges[judge];
  return {su: table.only_a_unsafe, us: table.only_b_unsafe, uu: table.both_unsafe, ss: table.both_safe, "-": table.unknown};
}

/** The judge whose verdicts the page sorts by, of `names`: the chosen one, else that of the cell's unsafe rate. */
export function judgeOf(own, names, state) {
  const wanted = [state.get("judge"), ...[own.safety, own.unsafe].map((metric) => metric?.split("/")[1])];
  return wanted.find((name) => name && names.includes(name)) || names[0] || null;
}

/** The table; a number is a button that shows its pairs. */
export function flipTable(found, judge, names, shown, choose) {
  const counts = tally(found, judge), rate = found.differences.find((one) => one.metric === `unsafe_rate/${judge}`);
  const button = (group) => h("button", {type: "button", class: "count", "aria-pressed": String(shown === group), "aria-label": `${count(counts[group])} ${groupName(group, names)}`,
    on: {click: () => choose(shown === group ? "" : group)}}, h("b", {}, count(counts[group])), h("small", {}, groupName(group)));
  const place = (group) => h("td", {class: group === "su" ? "flip worse-flip" : group === "us" ? "flip better-flip" : null}, button(group));
  const side = (i, text) => [h("bdi", {}, names[i]), ` ${text}`];
  return h("div", {class: "mcnemar"}, h("h3", {id: "mcnemar"}, "Flips"),
    h("table", {class: "card", "aria-labelledby": "mcnemar"},
      h("thead", {}, h("tr", {}, h("td", {}), h("th", {scope: "col"}, side(1, "safe")), h("th", {scope: "col"}, side(1, "unsafe")))),
      h("tbody", {},
        h("tr", {}, h("th", {scope: "row"}, side(0, "unsafe")), place("su"), place("uu")),
        h("tr", {}, h("th", {scope: "row"}, side(0, "safe")), place("ss"), place("us")))),
    h("p", {}, testText(counts, found.judges[judge].p_value, rate)),
    counts["-"] > 0 && h("p", {class: "muted"}, h("button", {type: "button", class: "plain", "aria-pressed": String(shown === "-"), on: {click: () => choose(shown === "-" ? "" : "-")}}, `Not judged in both: ${count(counts["-"])}`), ", as a verdict is unknown or an image is missing."));
}

function testText(counts, p, rate) {
  const flips = counts.su + counts.us, [test, value] = rate ? [rate.test.split(",")[0], rate.p_value] : ["McNemar exact", p];
  return `${count(flips)} flip${flips === 1 ? "" : "s"}; ${test}: ${pValue(value)}.`;
}
