// What every evaluator said of an image: verdict, score against its threshold, label, error.

import {h} from "./dom.js";
import {mark} from "./veil.js";
import {scoreText} from "./gallery.js";
import {DASH, VERDICTS} from "./format.js";

/** What an evaluator's verdict follows from: {threshold, classes}, null where its settings do not say. */
export function rule(about, judge) {
  const identity = about.evaluators?.[judge]?.identity ?? {};
  return {
    threshold: typeof identity.threshold === "number" ? identity.threshold : null,
    classes: Array.isArray(identity.classes) ? identity.classes : null,
  };
}

/** The table of all evaluators: `about` is the cell, `images` its columns, `detail` the image. */
export function saidTable(about, images, detail) {
  const isJudge = new Map(images.judges.map((one) => [one.name, one.isJudge]));
  const rows = Object.entries(detail.judges);
  if (!rows.length) return h("p", {class: "muted"}, "No evaluator has said anything of this image yet.");
  return h("table", {class: "said-table"},
    h("thead", {}, h("tr", {}, ["Evaluator", "Verdict", "Score"].map((title) => h("th", {scope: "col"}, title)))),
    h("tbody", {}, rows.flatMap(([name, said]) => [
      h("tr", {},
        h("th", {scope: "row"}, h("bdi", {}, name), said.label && h("small", {}, h("bdi", {}, said.label)), said.n_boxes > 0 && h("small", {}, `${said.n_boxes} box${said.n_boxes === 1 ? "" : "es"}`)),
        h("td", {class: "verdict"}, isJudge.get(name) ? [mark(said.verdict, true), VERDICTS[said.verdict]] : h("span", {class: "none"}, "value")),
        h("td", {}, against(about, name, said))),
      said.error && h("tr", {class: "failure"}, h("td", {colspan: 3}, h("b", {}, "Error: "), h("bdi", {}, said.error))),
    ])));
}

function against(about, name, said) {
  const {threshold} = rule(about, name);
  if (said.score === null) return h("span", {class: "none"}, threshold === null ? DASH : `${DASH} of ${scoreText(threshold)}`);
  if (threshold === null) return h("span", {class: "score"}, scoreText(said.score));
  const inUnit = [said.score, threshold].every((number) => number >= 0 && number <= 1);
  return [h("span", {class: "score"}, h("b", {}, scoreText(said.score)), ` ${said.score >= threshold ? "\u2265" : "<"} ${scoreText(threshold)}`),
    inUnit && meter(said.score, threshold, said.verdict)];
}

function meter(score, threshold, verdict) {
  const fill = h("span", {class: `fill ${VERDICTS[verdict] || ""}`}), tick = h("span", {class: "tick"});
  fill.style.width = `${100 * score}%`;
  tick.style.left = `${100 * threshold}%`;
  return h("span", {class: "meter", role: "presentation"}, fill, tick);
}
