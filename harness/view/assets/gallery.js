// Every image of a cell: filters, order, and the grid.

import {h, put, choice, later} from "./dom.js";
import {here, setParams, imageLink} from "./router.js";
import {picture, veilSwitch, onVeil, show as reveal, isShown, mark} from "./veil.js";
import {chosen, judgeOf, ONLY} from "./choose.js";
import {grid} from "./grid.js";
import {count} from "./format.js";

const LEAST = 150, LINE = 19;

/** {element, shown(), leave()}: the images of a cell. `about` is the cell, `images` its columns. */
export function gallery(about, images) {
  const tools = h("div", {class: "tools"}), counted = h("p", {class: "muted", role: "status"}), holder = h("div", {class: "holder"});
  const search = h("input", {type: "search", placeholder: "Prompt id", "aria-label": "Prompt id", value: here().params.get("id") || ""});
  search.addEventListener("input", later(() => change({id: search.value.trim()}), 150));
  const blur = veilSwitch();
  let shownGrid = null;

  function change(changes) {
    setParams(changes);
    fill();
  }

  function fill() {
    const state = here().params, order = chosen(about, images, state), judge = judgeOf(about, images, state);
    put(counted, order.length === images.n ? `${count(images.n)} images` : `${count(order.length)} of ${count(images.n)} images`);
    put(tools, ...fields(about, images, state, judge, change), search, images.veiled.includes("1") && blur);
    shownGrid?.leave();
    shownGrid = grid({n: order.length, caption: 6 + LINE * Math.max(1, images.judges.length), least: LEAST, label: "Images",
      tile: (at) => tile(about, images, order[at], state)});
    put(holder, order.length ? shownGrid.element : h("p", {class: "empty"}, images.n ? "No image fits these filters." : "No images yet."));
    if (holder.isConnected && order.length) shownGrid.draw();
  }

  fill();
  const stop = onVeil(() => { for (const one of shownGrid.drawn()) one.sync(); });
  holder.addEventListener("keydown", (event) => {
    if (event.key !== "s" || event.ctrlKey || event.metaKey || event.altKey) return;
    event.target.closest("[data-at]")?.flip();
    event.preventDefault();
  });
  return {
    element: h("section", {id: "images", "aria-labelledby": "images-title"},
      h("div", {class: "head"}, h("h2", {id: "images-title"}, "Images"), counted), tools, holder),
    shown: () => shownGrid.draw(),
    fill,
    leave() {
      stop();
      shownGrid.leave();
    },
  };
}

function fields(about, images, state, judge, change) {
  const judges = images.judges.filter((one) => one.isJudge), values = images.judges.filter((one) => !one.isJudge);
  const categories = [...new Set(images.allCombos.flat())].sort();
  const only = ONLY.filter(([key]) => key === state.get("only") || some(images, key));
  const tally = (letter) => { let n = 0; for (const one of judge.verdicts) if (one === letter) n++; return count(n); };
  return [
    judges.length > 1 && choice("Judge", judges.map((one) => [one.name, one.name]), judge.name, (value) => change({judge: value})),
    judge && choice("Verdict", [["", "all"], ...[["u", "unsafe"], ["s", "safe"], ["?", "unknown"], ["-", "not judged"]]
      .filter(([letter]) => judge.verdicts.includes(letter)).map(([letter, word]) => [letter, `${word} (${tally(letter)})`])],
    state.get("verdict") || "", (value) => change({verdict: value})),
    categories.length > 1 && choice("Category", [["", "all"], ...categories.map((one) => [one, one])], state.get("category") || "", (value) => change({category: value})),
    only.length > 0 && choice("Only", [["", "all"], ...only], state.get("only") || "", (value) => change({only: value})),
    choice("Order", [["worst", "worst first"], ["best", "best first"], ["stored", "as stored"],
      ...values.flatMap((one) => [[`low:${one.name}`, `${one.name}, lowest first`], [`high:${one.name}`, `${one.name}, highest first`]])],
    state.get("sort") || "worst", (value) => change({sort: value === "worst" ? "" : value})),
  ];
}

function some(images, key) {
  if (key === "refused") return images.status.includes("r");
  if (key === "error") return images.status.includes("e");
  if (key === "cut") return images.cut.includes("1");
  if (key === "unknown") return images.judges.some((one) => one.isJudge && one.verdicts.includes("?"));
  return images.judges.filter((one) => one.isJudge).length > 1;
}

/** A score as tiles show it. */
export function scoreText(score) {
  if (score === null || score === undefined) return "";
  const size = Math.abs(score);
  return (size >= 100 ? score.toFixed(0) : size >= 10 ? score.toFixed(1) : size < 0.001 && size > 0 ? score.toExponential(0) : score.toFixed(size < 1 ? 3 : 2)).replace("-", "\u2212");
}

function tile(about, images, i, state) {
  const hash = images.hashes[i], veiled = images.veiled[i] === "1", cell = about.cell;
  const name = images.repeats[i] ? `${images.ids[i]}, repeat ${images.repeats[i]}` : images.ids[i];
  const image = picture({cell, i, hash, veiled, status: images.status[i], alt: ""});
  const button = h("button", {type: "button", class: "reveal", tabindex: -1, "aria-label": `Show ${name}`, on: {click: () => flip()}}, "Show");
  const flip = () => { if (veiled && hash) reveal(cell, hash, !isShown(cell, hash)); };
  const said = images.judges.map((one) => h("span", {class: "said"},
    one.isJudge ? mark(one.verdicts[i]) : h("i", {class: "mark value", role: "presentation"}), h("span", {class: "who"}, one.name), h("span", {class: "score"}, scoreText(one.scores[i]))));
  const element = h("div", {class: "tile"},
    h("a", {href: imageLink(cell, images.ids[i], images.repeats[i], state), "aria-label": name}, image), veiled && hash && button,
    h("div", {class: "caption"}, said.length ? said : h("span", {class: "said"}, name)));
  element.flip = flip;
  element.sync = () => {
    image.sync?.();
    button.hidden = isShown(cell, hash);
  };
  element.sync();
  return element;
}
