// One image: large, with its prompt, what every judge said of it, its boxes, and the same prompt under other methods.

import {h, put, link, copyButton} from "./dom.js";
import {cellLink, go, imageLink} from "./router.js";
import {fullUrl, getCell, getDetail, getImages} from "./data.js";
import {allShown, isShown, onVeil, picture, show as reveal, showAll} from "./veil.js";
import {chosen} from "./choose.js";
import {boxesOf, boxLayers} from "./boxes.js";
import {saidTable} from "./said.js";
import {others} from "./others.js";
import {keys} from "./keys.js";
import {count, isolated} from "./format.js";

const FEW = 128; // pixels up to which an image is enlarged as it is, without smoothing
let stepped = null; // which way the last image was left: the focus stays on that button

export async function show(main, {parts, params}) {
  const [, cell, , promptId, repeat] = parts;
  const [about, images] = await Promise.all([getCell(cell), getImages(cell)]);
  const i = images.find(promptId, Number(repeat));
  if (i < 0) throw new Error(`This cell has no image ${promptId}, repeat ${repeat}.`);
  const detail = await getDetail(cell, i);
  const steps = neighbours(about, images, i, params), large = frame(about, detail, i);
  const beside = others(about, i, detail), boxes = boxLayers(boxesOf(about, detail));
  large.element.append(boxes.overlay);
  put(main,
    h("div", {class: "head"}, h("h1", {}, h("bdi", {}, nameOf(detail))), h("p", {class: "muted"}, steps.place), h("div", {class: "steps"}, steps.links)),
    h("div", {class: "image-page"},
      h("div", {class: "left"}, large.element, large.under),
      h("div", {class: "right"}, prompt(detail), facts(about, detail, cell, params),
        h("section", {"aria-labelledby": "said-title"}, h("h2", {id: "said-title"}, "What the evaluators say"), saidTable(about, images, detail)),
        boxes.overlay.childElementCount > 0 && boxes.panel)),
    beside.element);
  const stop = onVeil(() => { large.sync(); beside.sync(); });
  const unbind = keys({
    ArrowLeft: ["previous image", () => steps.go("previous")],
    ArrowRight: ["next image", () => steps.go("next")],
    s: ["show or blur this image", large.flip],
    b: ["show or blur all images", () => showAll(!allShown())],
    x: ["show or hide the boxes", boxes.toggle],
    g: ["back to the images of the cell", () => go(cellLink(cell, kept(params)))],
  });
  return {
    title: `${isolated(nameOf(detail))} \u00b7 ${isolated(about.label)}`,
    crumbs: [[cellLink(cell, kept(params)), `${isolated(about.label)} on ${isolated(about.bench)}`], [imageLink(cell, promptId, repeat, params), nameOf(detail)]],
    shown: () => steps.focus(),
    async changed(cells) {
      if (cells.includes(cell) && (await isOther(cell, promptId, repeat, detail))) return void window.dispatchEvent(new Event("hashchange"));
      beside.fill();
    },
    leave() {
      stop();
      unbind();
      beside.leave();
    },
  };
}

/** True if the image, or what is said of it, is no longer what is shown. */
async function isOther(cell, promptId, repeat, detail) {
  const i = (await getImages(cell)).find(promptId, Number(repeat));
  return i < 0 || JSON.stringify(await getDetail(cell, i)) !== JSON.stringify(detail);
}

const nameOf = ({id, repeat}) => (repeat ? `${id}, repeat ${repeat}` : id);

/** The state that goes along to other images: the cell page's filter, and which boxes are hidden. */
function kept(params) {
  const there = new URLSearchParams(params);
  there.delete("box");
  return there;
}

function neighbours(about, images, i, params) {
  const order = chosen(about, images, params), at = order.indexOf(i), ways = {};
  const line = at < 0 ? [...images.ids.keys()] : order, place = line.indexOf(i);
  const step = (way, to, title) => {
    if (to === undefined) return h("span", {class: "quiet off"}, title);
    ways[way] = h("a", {class: "quiet", href: imageLink(about.cell, images.ids[to], images.repeats[to], kept(params)), rel: way === "next" ? "next" : "prev", on: {click: () => { stepped = way; }}}, title);
    return ways[way];
  };
  const links = [step("previous", line[place - 1], "\u2190 Previous"), step("next", line[place + 1], "Next \u2192")];
  const all = order.length === images.n ? "" : at < 0 ? ", not among those of the filter" : ` of the filter, ${count(images.n)} in all`;
  return {
    links,
    place: `${count(place + 1)} of ${count(line.length)}${all}`,
    go(way) {
      if (!ways[way]) return;
      stepped = document.activeElement === ways[way] ? way : null;
      go(ways[way].getAttribute("href"));
    },
    focus() {
      if (stepped) (ways[stepped] || Object.values(ways)[0])?.focus({preventScroll: true});
      stepped = null;
    },
  };
}

function frame(about, detail, i) {
  const {hash, veiled} = detail, status = detail.status[0];
  const image = picture({cell: about.cell, i, hash, veiled, status, alt: `Image of prompt ${detail.id}`, url: fullUrl(about.cell, i, hash)});
  const element = h("div", {class: "frame"}, image), drawn = image.querySelector("img");
  const {width, height} = about.settings.width ? about.settings : about.settings.settings || {};
  if (width > 0 && height > 0) element.style.setProperty("--ratio", width / height);
  drawn?.addEventListener("load", () => {
    element.style.setProperty("--ratio", drawn.naturalWidth / drawn.naturalHeight);
    image.classList.toggle("few", drawn.naturalWidth <= FEW);
  });
  const flip = () => { if (veiled && hash) reveal(about.cell, hash, !isShown(about.cell, hash)); };
  const button = h("button", {type: "button", class: "quiet", on: {click: flip}});
  const sync = () => {
    image.sync?.();
    button.textContent = isShown(about.cell, hash) ? "Blur" : "Show the image";
  };
  sync();
  return {element, flip, sync, under: h("div", {class: "under"}, veiled && hash && button, detail.error && h("p", {class: "problem"}, h("bdi", {}, detail.error)))};
}

function prompt(detail) {
  return h("section", {class: "prompt", "aria-labelledby": "prompt-title"}, h("div", {class: "head"}, h("h2", {id: "prompt-title"}, "Prompt"), copyButton(detail.prompt)),
    h("p", {class: "text", dir: "auto", tabindex: detail.prompt.length > 600 ? 0 : null}, detail.prompt),
    detail.cut && h("p", {class: "note"}, "The text encoder reads only the beginning of this prompt."));
}

function facts(about, detail, cell, params) {
  const categories = detail.category.map((name) => link(cellLink(cell, {category: name}), h("bdi", {}, name), {class: "chip"}));
  const rows = [["Category", categories.length ? categories : null], ["Seed", h("code", {}, detail.seed)], ["Repeat", detail.repeat || null],
    ["Guidance", detail.guidance_scale], ["Status", detail.status === "ok" ? null : detail.status], ["Flags", detail.flags.length ? detail.flags.join(", ") : null],
    ["Time", typeof detail.seconds === "number" ? `${detail.seconds.toFixed(2)} s` : null], ["File", detail.file && h("code", {}, detail.file)]];
  return h("dl", {class: "lines"}, rows.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
