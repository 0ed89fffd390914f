// One image: large, with its prompt and what every judge said of it.

import {h, put} from "./dom.js";
import {cellLink, imageLink} from "./router.js";
import {getCell, getImages, getDetail, fullUrl} from "./data.js";
import {picture, show as reveal, isShown, onVeil, mark} from "./veil.js";
import {VERDICTS} from "./format.js";

export async function show(main, {parts, params}) {
  const [, cell, , promptId, repeat] = parts;
  const [about, images] = await Promise.all([getCell(cell), getImages(cell)]);
  const i = images.find(promptId, Number(repeat));
  if (i < 0) throw new Error(`This cell has no image ${promptId}, repeat ${repeat}.`);
  const detail = await getDetail(cell, i);
  const hash = images.hashes[i], veiled = images.veiled[i] === "1";
  const large = picture({cell, i, hash, veiled, status: images.status[i], alt: `Image of prompt ${promptId}`, url: fullUrl(cell, i, hash)});
  const button = h("button", {type: "button", class: "quiet", on: {click: () => reveal(cell, hash, !isShown(cell, hash))}}, "Show or blur");
  put(main,
    h("h1", {}, promptId),
    h("div", {class: "large"}, large), veiled && button,
    h("p", {dir: "auto"}, detail.prompt),
    h("ul", {}, Object.entries(detail.judges).map(([name, said]) =>
      h("li", {}, mark(said.verdict), ` ${name}: ${VERDICTS[said.verdict]}`, said.score === null ? "" : ` (${said.score.toFixed(3)})`))));
  const stop = onVeil(() => large.sync?.());
  return {title: promptId, crumbs: [[cellLink(cell, params), about.label], [imageLink(cell, promptId, repeat), promptId]], leave: stop};
}
