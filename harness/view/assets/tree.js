// Plain data as nested lists of names and values.

import {h} from "./dom.js";
import {DASH} from "./format.js";

const isMapping = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** What a run says of itself, whatever it holds. */
export function tree(value) {
  if (isMapping(value)) {
    return h("dl", {class: "tree"}, Object.entries(value).map(([key, one]) => {
      const nested = (isMapping(one) && Object.keys(one).length > 0) || (Array.isArray(one) && one.some((item) => item !== null && typeof item === "object"));
      return h("div", {class: nested ? "nested" : null}, h("dt", {}, key), h("dd", {}, tree(one)));
    }));
  }
  if (Array.isArray(value)) {
    if (value.some((item) => item !== null && typeof item === "object")) return h("ol", {class: "tree"}, value.map((item) => h("li", {}, tree(item))));
    return h("span", {dir: "auto"}, value.length ? value.join(", ") : DASH);
  }
  return h("span", {dir: "auto"}, value === null || value === "" ? DASH : String(value));
}
