// Images that may be unsafe are blurred until someone asks. What was asked for lasts until the page is reloaded: it is
// never in an address, so that nobody is sent an image unblurred.

import {h} from "./dom.js";
import {thumbUrl} from "./data.js";
import {VERDICTS} from "./format.js";

const asked = new Set();
let all = false;
const listeners = new Set();

export const isShown = (cell, hash) => all || asked.has(`${cell} ${hash}`);
export const allShown = () => all;

/** Show or blur one image. */
export function show(cell, hash, shown) {
  if (shown) asked.add(`${cell} ${hash}`);
  else asked.delete(`${cell} ${hash}`);
  for (const tell of listeners) tell();
}

/** Show or blur every image; blurring forgets single ones, too. */
export function showAll(shown) {
  all = shown;
  if (!shown) asked.clear();
  for (const tell of listeners) tell();
}

/** Call `tell` whenever what is shown changes; returns how to stop. */
export function onVeil(tell) {
  listeners.add(tell);
  return () => listeners.delete(tell);
}

/** The switch for all images of the page. */
export function veilSwitch() {
  const box = h("input", {type: "checkbox", id: "veil", on: {change: () => showAll(box.checked)}});
  box.checked = all;
  let there = false;
  const stop = onVeil(() => {
    if (there && !box.isConnected) return void stop(); // its page was left
    there = box.isConnected;
    box.checked = all;
  });
  return h("label", {class: "check"}, box, "Show blurred images");
}

/** A picture that is blurred while it must be: {cell, i, hash, veiled, status, alt, url}. `.sync()` after a change.

    status is "o", "r" or "e", as in getImages(). */
export function picture({cell, i, hash, veiled, status = "o", alt, url}) {
  if (status !== "o" || !hash) {
    return h("span", {class: "picture absent"}, status === "r" ? "refused" : status === "e" ? "error" : "not in this copy");
  }
  const image = h("img", {src: url || thumbUrl(cell, i, hash), alt, loading: "lazy", decoding: "async"});
  image.addEventListener("error", () => holder.replaceChildren(h("span", {class: "note"}, "unreadable file")));
  const holder = h("span", {class: "picture"}, image);
  holder.sync = () => holder.classList.toggle("veiled", veiled && !isShown(cell, hash));
  holder.sync();
  return holder;
}

/** A verdict as a mark with its word for who cannot see it; `said` where the word stands beside it. */
export function mark(letter, said = false) {
  const word = VERDICTS[letter] || VERDICTS["-"], told = said ? {"aria-hidden": "true"} : {title: word, role: "img", "aria-label": word};
  return h("i", {class: `mark ${letter === "-" ? "none" : word}`, ...told});
}
