// The boxes that detectors drew: over the picture, and as a list; what is pointed at in one stands out in the other.

import {h} from "./dom.js";
import {here, setParams} from "./router.js";
import {scoreText} from "./gallery.js";
import {rule} from "./said.js";
import {count} from "./format.js";

const COLOURS = 10; // --s0 to --s9

/** The boxes of an image by judge: [{judge, at, colour, boxes: [{label, score, counts, ...}], n, threshold}].

    A box counts where its label is one of the judge's classes and its score reaches the threshold; null: not known. */
export function boxesOf(about, detail) {
  return Object.entries(detail.judges).flatMap(([judge, said], at) => {
    if (!said.boxes?.length) return [];
    const {threshold, classes} = rule(about, judge);
    const counts = ({label, score}) => (threshold === null || !classes ? null : classes.includes(label) && score >= threshold);
    return [{judge, at, colour: `var(--s${at % COLOURS})`, n: said.n_boxes ?? said.boxes.length, threshold, boxes: said.boxes.map((box) => ({...box, counts: counts(box)}))}];
  });
}

const listed = (text) => new Set((text || "").split(",").filter(Boolean).map(decodeURIComponent));
const percent = (part) => `${(100 * part).toFixed(3)}%`;

/** {overlay, panel, toggle()}: the boxes over the picture, the list beside it, and how to show or hide all of them.

    Hidden judges (`hide`) and the chosen box (`box`) are in the address. */
export function boxLayers(groups) {
  const overlay = h("div", {class: "boxes", "aria-hidden": "true"});
  const made = new Map(); // by key: {over, button}
  let hidden = listed(here().params.get("hide")), pinned = here().params.get("box");

  function sync(pointed) {
    const on = pointed || (made.has(pinned) ? pinned : null);
    overlay.classList.toggle("chosen", Boolean(on));
    for (const [key, {over, button, judge}] of made) {
      over.hidden = hidden.has(judge);
      over.classList.toggle("on", key === on);
      button.setAttribute("aria-pressed", String(key === pinned));
    }
    for (const box of panel.querySelectorAll("input")) box.checked = !hidden.has(box.value);
  }

  function pin(key) {
    pinned = pinned === key ? null : key;
    setParams({box: pinned});
    sync();
  }

  function hide(judges) {
    hidden = judges;
    setParams({hide: [...hidden].map(encodeURIComponent).join(",")});
    sync();
  }

  function one(group, box, at) {
    const key = `${group.at}.${at}`;
    const over = h("div", {class: `box${box.counts === false ? " faint" : ""}`, on: {click: () => pin(key)}}, h("span", {class: box.left > 0.5 ? "tag right" : "tag"}, h("bdi", {}, box.label), ` ${scoreText(box.score)}`));
    Object.assign(over.style, {left: percent(box.left), top: percent(box.top), width: percent(box.width), height: percent(box.height)});
    over.style.setProperty("--colour", group.colour);
    const button = h("button", {type: "button", class: "boxline", "aria-pressed": "false",
      on: {click: () => pin(key), mouseenter: () => sync(key), mouseleave: () => sync(), focus: () => sync(key), blur: () => sync()}},
      h("bdi", {}, box.label), h("span", {class: "score"}, scoreText(box.score)),
      box.counts !== null && h("small", {}, box.counts ? "counts" : group.threshold > box.score ? "below the threshold" : "not counted"));
    button.style.setProperty("--colour", group.colour);
    overlay.append(over);
    made.set(key, {over, button, judge: group.judge});
    return h("li", {}, button);
  }

  const panel = h("section", {class: "boxlist", "aria-labelledby": "boxes-title"}, h("h2", {id: "boxes-title"}, "Boxes"),
    groups.map((group) => {
      const toggle = h("input", {type: "checkbox", value: group.judge, on: {change: (event) => {
        const next = new Set(hidden);
        if (event.target.checked) next.delete(group.judge);
        else next.add(group.judge);
        hide(next);
      }}});
      return h("div", {role: "group", "aria-label": `Boxes of ${group.judge}`},
        h("label", {class: "check"}, toggle, h("bdi", {}, group.judge), h("small", {}, group.n > group.boxes.length ? `the first ${count(group.boxes.length)} of ${count(group.n)}` : count(group.n))),
        h("ol", {}, group.boxes.map((box, at) => one(group, box, at))));
    }));
  sync();
  return {
    overlay,
    panel,
    toggle: () => hide(hidden.size ? new Set() : new Set(groups.map((group) => group.judge))),
  };
}
