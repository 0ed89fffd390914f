// Two cells of one bench, image by image.

import {h, put} from "./dom.js";
import {cellLink, compareLink} from "./router.js";
import {getCell, getPairs} from "./data.js";

export async function show(main, {parts}) {
  const [, cell, baseline] = parts;
  const [own, other, pairs] = await Promise.all([getCell(cell), getCell(baseline), getPairs(cell, baseline)]);
  put(main, h("h1", {}, `${own.label} against ${other.label}`), h("p", {}, `${pairs.n_pairs} pairs`));
  return {title: `${own.label} against ${other.label}`, crumbs: [[cellLink(cell), own.label], [compareLink(cell, baseline), `against ${other.label}`]]};
}
