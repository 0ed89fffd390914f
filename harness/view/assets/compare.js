// Two cells of one bench: what differs, which images flip, and every pair side by side.

import {h, put, link, choice} from "./dom.js";
import {cellLink, compareLink, go, here, setParams} from "./router.js";
import {getCell, getImages, getPairs} from "./data.js";
import {differencesTable, categoryTable} from "./differences.js";
import {flipTable, judgeOf, swapped} from "./flips.js";
import {pairList} from "./pairlist.js";
import {allShown, showAll} from "./veil.js";
import {keys} from "./keys.js";
import {count, isolated} from "./format.js";

export async function show(main, {parts}) {
  const [, cell, baseline] = parts;
  const page = {cell, baseline, own: await getCell(cell), other: await getCell(baseline), found: null, list: null, left: false};
  page.top = h("div", {});
  page.judged = h("div", {});
  page.below = h("section", {id: "pairs", "aria-labelledby": "pairs-title"});
  page.change = (changes) => {
    setParams(changes);
    fill(page);
  };
  put(main, page.top, page.judged, page.below);
  drawHead(page);
  const unbind = keys({
    w: ["swap the two", () => swap(page)],
    f: ["flips only, or all pairs", () => page.change({show: here().params.get("show") ? "" : "flips"})],
    i: ["to the pairs", () => page.below.scrollIntoView()],
    s: ["show or blur the pair in focus", null],
    b: ["show or blur all images", () => showAll(!allShown())],
  });
  return {
    title: `${isolated(page.own.label)} against ${isolated(page.other.label)}`,
    crumbs: [[cellLink(cell), `${isolated(page.own.label)} on ${isolated(page.own.bench)}`], [compareLink(cell, baseline), `against ${isolated(page.other.label)}`]],
    shown: () => void load(page),
    async changed(cells) {
      if (!cells.includes(cell) && !cells.includes(baseline)) return;
      [page.own, page.other] = await Promise.all([getCell(cell), getCell(baseline)]);
      await load(page);
    },
    params: () => fill(page),
    leave() {
      page.left = true;
      unbind();
      page.list?.leave();
    },
  };
}

/** What the two are called: as on their own pages, or as the comparison tells two models apart. */
const namesOf = ({own, other, found}) => (own.label === other.label && found?.labels) || [own.label, other.label];

/** Load the comparison, then the images: the first is a few seconds' work where there are many. */
async function load(page) {
  const failed = (place) => (error) => {
    if (page.left) return;
    page.top.querySelector("[role=status]")?.remove();
    put(place, h("p", {class: "problem", role: "alert"}, error.message));
  };
  await getPairs(page.cell, page.baseline).then((found) => {
    page.found = found;
    if (page.left) return;
    drawHead(page);
    fill(page);
  }).catch(failed(page.judged));
  if (page.found && !page.found.error && !page.left) await loadPairs(page).catch(failed(page.below));
}

async function loadPairs(page) {
  const status = h("p", {class: "muted", role: "status"}, "Loading\u2026");
  if (!page.list) put(page.below, h("h2", {id: "pairs-title"}, "Pairs"), status);
  const progress = (n, all) => put(status, `Loading ${count(n)} of ${count(all)}\u2026`);
  const images = await getImages(page.cell, progress), others = await getImages(page.baseline, progress);
  if (page.left) return;
  page.list?.leave();
  page.list = pairList({...page, names: namesOf(page), images, others});
  put(page.below, page.list.element);
  page.list.fill();
}

function fill(page) {
  put(page.judged, page.found && verdicts(page, here().params));
  page.list?.fill();
}

function swap({cell, baseline}) {
  const {params} = here();
  if (params.get("show")) params.set("show", swapped(params.get("show")));
  go(compareLink(baseline, cell, params));
}

function drawHead(page) {
  const {own, other, found, top} = page, names = namesOf(page), models = own.model === other.model ? own.model : `${own.model} and ${other.model}`;
  put(top,
    h("div", {class: "head"}, h("h1", {}, link(cellLink(own.cell), h("bdi", {}, names[0])), h("span", {class: "muted"}, " against "), link(cellLink(other.cell), h("bdi", {}, names[1]))),
      h("button", {type: "button", class: "quiet", on: {click: () => swap(page)}}, "Swap")),
    h("p", {class: "muted"}, `${models} on ${own.bench}`, found?.pairing && `: ${found.pairing.words}`),
    !found && h("p", {class: "muted", role: "status"}, "Loading the comparison\u2026"),
    found?.error && h("p", {class: "problem", role: "alert"}, found.error),
    found?.pairing?.differs && h("p", {class: "problem"}, `Their images were also made differently: ${found.pairing.differs}.`),
    found?.differences && differencesTable(found, names));
}

function verdicts(page, state) {
  const {own, found, change} = page, names = namesOf(page), judges = Object.keys(found.judges || {}), judge = judgeOf(own, judges, state);
  if (!judge) return found.error ? null : h("p", {class: "muted"}, "No judge gave verdicts on both.");
  return h("section", {id: "verdicts", "aria-labelledby": "verdicts-title"},
    h("div", {class: "head"}, h("h2", {id: "verdicts-title"}, "Verdicts of ", h("bdi", {}, judge)),
      judges.length > 1 && choice("Judge", judges.map((name) => [name, name]), judge, (value) => change({judge: value}))),
    h("div", {class: "two"}, flipTable(found, judge, names, state.get("show"), (show) => change({show})),
      categoryTable(found, judge, names, state.get("category"), (category) => change({category}))));
}
