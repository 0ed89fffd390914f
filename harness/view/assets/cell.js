// A cell: its number first, how it came about, and every image behind it.

import {h, put} from "./dom.js";
import {cellLink} from "./router.js";
import {getCell} from "./data.js";
import {metric, valueText, interval, count} from "./format.js";

export async function show(main, {parts}) {
  const [, cell] = parts;
  const about = await getCell(cell);
  const name = about.safety || about.unsafe, one = name && about.metrics[name];
  const said = one && metric(one.values);
  put(main, h("h1", {}, about.label),
    h("p", {class: "muted"}, `${about.model} on ${about.bench} \u00b7 cell ${about.cell} \u00b7 ${about.status_text}`),
    said && h("p", {class: "big"}, h("b", {}, valueText(one, said)), " ", interval(one, said.low, said.high), ` n ${count(said.n)}`));
  return {title: about.label, crumbs: [[cellLink(cell), about.label]]};
}
