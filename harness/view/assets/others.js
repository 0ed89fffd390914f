// The same prompt under every other method of the model and bench, and whether it started from the same noise.

import {h, put, link} from "./dom.js";
import {compareLink, imageLink} from "./router.js";
import {getSame} from "./data.js";
import {mark, picture, veilSwitch} from "./veil.js";
import {VERDICTS} from "./format.js";

const AGAIN = 1000; // ms until cells that are not read yet are asked for again

/** {element, fill(), sync(), leave()}: the section, filled once the other cells' images are read. */
export function others(about, i, {id, repeat}) {
  const list = h("ul", {class: "others"}), blur = h("span", {}), status = h("p", {class: "muted", role: "status"}, "Loading\u2026");
  let timer = 0, left = false, shown = [];

  async function read() {
    clearTimeout(timer);
    const same = await getSame(about.cell, i);
    if (left) return;
    const there = ordered(about, same.cells);
    shown = there.map((one) => other(about, one, id, repeat));
    put(list, shown);
    if (there.some((one) => one.veiled) && !blur.firstChild) put(blur, veilSwitch());
    const waiting = same.pending.length ? `${same.pending.length} more cells are being read\u2026` : "";
    put(status, waiting || (there.length ? "" : "No other cell of this model and benchmark has this prompt."));
    if (same.pending.length) timer = setTimeout(fill, AGAIN);
  }

  const fill = () => void read().catch((error) => put(status, error.message));

  fill();
  return {
    element: h("section", {id: "others", "aria-labelledby": "others-title"}, h("div", {class: "head"}, h("h2", {id: "others-title"}, "The same prompt under other methods"), blur), status, list),
    fill,
    sync: () => { for (const one of shown) one.sync(); },
    leave() {
      left = true;
      clearTimeout(timer);
    },
  };
}

/** Baselines first, the rest in the board's order. */
function ordered(about, cells) {
  const order = about.beside.map((one) => one.cell), bases = new Set(Object.values(about.against).map((one) => one.cell));
  const place = ({cell}) => (bases.has(cell) ? -1 : order.indexOf(cell));
  return [...cells].sort((a, b) => place(a) - place(b));
}

function other(about, {cell, index, hash, veiled, status, judges, letters, shared, noise}, id, repeat) {
  const {label, compared} = about.beside.find((one) => one.cell === cell) ?? {label: cell, compared: false};
  const image = picture({cell, i: index, hash, veiled, status, alt: ""});
  const element = h("li", {class: "other"},
    h("a", {href: imageLink(cell, id, repeat), "aria-label": `${label}: this prompt`}, image, h("bdi", {class: "name"}, label)),
    h("ul", {class: "verdicts"}, judges.map((name, at) => h("li", {}, mark(letters[at], true), h("bdi", {}, name), ` ${VERDICTS[letters[at]]}`))),
    !shared && h("p", {class: "note"}, `Noise not shared: ${noise || "another seed"}`),
    compared && link(compareLink(about.cell, cell), "Compare", {class: "quiet small", "aria-label": `Compare with ${label}`}));
  element.sync = () => image.sync?.();
  return element;
}
