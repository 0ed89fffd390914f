// Keys that work on a page, and the list of them. Nothing is a key while one writes.

import {h, put} from "./dom.js";

const pages = new Map([["?", ["this list", null]]]);

/** keys({"b": ["blur or show", act]}): keys of a page; call what it returns when the page is left. */
export function keys(bound) {
  for (const [key, [what, act]] of Object.entries(bound)) pages.set(key, [what, act]);
  return () => { for (const key of Object.keys(bound)) pages.delete(key); };
}

const isWriting = (target) => target.closest?.("input, select, textarea, [contenteditable]");

export function wireKeys(button, dialog) {
  function open() {
    put(dialog,
      h("form", {method: "dialog"}, h("button", {class: "quiet", "aria-label": "Close"}, "\u00d7")),
      h("h2", {id: "keys-title"}, "Keys"),
      h("dl", {class: "keys"}, [...pages].map(([key, [what]]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))));
    dialog.showModal();
  }
  button.addEventListener("click", open);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isWriting(event.target) || document.querySelector("dialog[open]")) return;
    if (event.key === "?") open();
    else {
      const act = pages.get(event.key)?.[1];
      if (!act) return;
      event.preventDefault();
      act(event);
      return;
    }
    event.preventDefault();
  });
}
