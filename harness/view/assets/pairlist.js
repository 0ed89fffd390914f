// Every pair of images of two cells, flips first; only the pairs near the window exist.

import {h, put, choice, later} from "./dom.js";
import {here, imageLink, setParams} from "./router.js";
import {getDetail} from "./data.js";
import {isShown, mark, onVeil, picture, show as reveal, veilSwitch} from "./veil.js";
import {GROUPS, groupName, judgeOf} from "./flips.js";
import {grid} from "./grid.js";
import {scoreText} from "./gallery.js";
import {VERDICTS, count} from "./format.js";

const LEAST = 400, CAPTION = 132;

/** The pairs: [{i, j}] by the places of the images. Images of one id but another prompt are no pair. */
export function paired(images, others, otherPrompts) {
  const apart = new Set(otherPrompts), pairs = [];
  for (let i = 0; i < images.n; i++) {
    const j = apart.has(i) ? -1 : others.find(images.ids[i], images.repeats[i]);
    if (j >= 0) pairs.push({i, j});
  }
  return pairs;
}

/** The group of a pair by the verdicts of a judge in both cells. */
export function groupOf(images, others, own, its, {i, j}) {
  if (!own || !its || images.status[i] !== "o" || others.status[j] !== "o") return "-";
  const letters = its.verdicts[j] + own.verdicts[i];
  return /^[su]{2}$/.test(letters) ? letters : "-";
}

const named = (images, name) => images.judges.find((one) => one.name === name);

/** The pairs to show by the state in the address: judge, show (a group, or flips), category, sort and id. */
export function shownPairs(images, others, pairs, judge, state) {
  const own = named(images, judge), its = named(others, judge), show = state.get("show"), category = state.get("category");
  const id = (state.get("id") || "").toLowerCase(), [way, by] = (state.get("sort") || "").split(/:(.*)/s);
  const rank = new Map(GROUPS.map((group, at) => [group, at]));
  const kept = pairs.map((pair) => ({...pair, group: groupOf(images, others, own, its, pair)})).filter(({i, group}) =>
    (!show || (show === "flips" ? group === "su" || group === "us" : group === show)) && (!category || images.categories(i).includes(category)) && (!id || images.ids[i].toLowerCase().includes(id)));
  if (way === "stored") return kept;
  const scores = [named(images, by || judge), named(others, by || judge)];
  const change = ({i, j}) => {
    const now = scores[0]?.scores[i] ?? null, before = scores[1]?.scores[j] ?? null;
    return now === null || before === null ? null : now - before;
  };
  const moved = new Map(kept.map((pair) => [pair, change(pair)]));
  const far = (a, b, key) => {
    const [first, second] = [moved.get(a), moved.get(b)];
    if (first === null || second === null) return (first === null) - (second === null);
    return key(second) - key(first);
  };
  if (way === "up" || way === "down") return kept.sort((a, b) => far(a, b, (value) => (way === "up" ? value : -value)) || a.i - b.i);
  return kept.sort((a, b) => rank.get(a.group) - rank.get(b.group) || far(a, b, Math.abs) || a.i - b.i);
}

/** {element, fill(), leave()}: tools and the list. `change` sets the state and draws the page anew. */
export function pairList({own, other, names, found, images, others, change}) {
  const pairs = paired(images, others, found.other_prompts || []);
  const tools = h("div", {class: "tools"}), counted = h("p", {class: "muted", role: "status"}), holder = h("div", {class: "holder"});
  const search = h("input", {type: "search", placeholder: "Prompt id", "aria-label": "Prompt id", value: here().params.get("id") || ""});
  search.addEventListener("input", later(() => { setParams({id: search.value.trim()}); fill(); }, 150));
  const blur = veilSwitch(), judges = images.judges.filter((one) => one.isJudge && named(others, one.name)?.isJudge).map((one) => one.name);
  let shown = null;

  function fill() {
    const state = here().params, judge = judgeOf(own, judges, state), order = shownPairs(images, others, pairs, judge, state);
    put(counted, order.length === pairs.length ? `${count(pairs.length)} pairs` : `${count(order.length)} of ${count(pairs.length)} pairs`);
    put(tools, fields(images, others, names, state, judge, change), search, (images.veiled + others.veiled).includes("1") && blur);
    shown?.leave();
    shown = grid({n: order.length, caption: CAPTION, least: LEAST, ratio: 0.5, fewest: 1, label: "Pairs of images", tile: (at) => tile(order[at], judge)});
    put(holder, order.length ? shown.element : h("p", {class: "empty"}, "No pair fits these filters."));
    if (order.length) shown.draw();
  }

  function tile({i, j, group}, judge) {
    const sides = [side(own, images, i, names[0]), side(other, others, j, names[1])];
    const words = h("p", {class: "prompt-line", dir: "auto"}, "\u2026"), id = images.repeats[i] ? `${images.ids[i]}, repeat ${images.repeats[i]}` : images.ids[i];
    getDetail(own.cell, i).then((detail) => { words.textContent = detail.prompt.slice(0, 400); }, () => { words.textContent = ""; });
    const veiled = sides.some((one) => one.veiled), button = h("button", {type: "button", class: "plain", tabindex: -1, on: {click: () => element.flip()}});
    const element = h("div", {class: "pair"},
      h("div", {class: "both"}, sides.map((one) => one.link)),
      h("div", {class: "captions"}, sides.map((one, at) => h("div", {class: "caption"}, h("bdi", {class: "name"}, names[at]), said([images, others][at], [i, j][at], judge)))),
      h("p", {class: "what"}, h("span", {class: `chip ${group === "su" ? "broken" : group === "us" ? "" : "plain-chip"}`}, groupName(group)), h("bdi", {class: "id"}, id), veiled && button),
      words);
    element.flip = () => {
      const hiding = sides.some((one) => one.veiled && !one.isShown());
      for (const one of sides) if (one.veiled) one.reveal(hiding);
    };
    element.sync = () => {
      for (const one of sides) one.sync();
      put(button, sides.some((one) => one.veiled && !one.isShown()) ? "Show" : "Blur", h("span", {class: "away"}, ` ${id}`));
    };
    element.sync();
    return element;
  }

  holder.addEventListener("focusin", (event) => {
    const tile = event.target.closest("[data-at]");
    for (const one of shown.drawn()) for (const extra of [...one.querySelectorAll("a, button")].slice(1)) extra.tabIndex = one === tile ? 0 : -1;
  });
  holder.addEventListener("keydown", (event) => {
    if (event.key !== "s" || event.ctrlKey || event.metaKey || event.altKey) return;
    event.target.closest("[data-at]")?.flip();
    event.preventDefault();
  });
  const stop = onVeil(() => { for (const one of shown?.drawn() || []) one.sync(); });
  return {
    element: h("div", {}, h("div", {class: "head"}, h("h2", {id: "pairs-title"}, "Pairs"), counted), tools, holder),
    fill,
    leave() {
      stop();
      shown?.leave();
    },
  };
}

function side(about, images, i, name) {
  const hash = images.hashes[i], veiled = images.veiled[i] === "1" && Boolean(hash), status = images.status[i];
  const image = picture({cell: about.cell, i, hash, veiled, status, alt: ""});
  const id = images.repeats[i] ? `${images.ids[i]}, repeat ${images.repeats[i]}` : images.ids[i];
  return {
    veiled,
    link: h("a", {href: imageLink(about.cell, images.ids[i], images.repeats[i]), "aria-label": `${name}: ${id}`, tabindex: -1}, image),
    isShown: () => isShown(about.cell, hash),
    reveal: (on) => reveal(about.cell, hash, on),
    sync: () => image.sync?.(),
  };
}

function said(images, i, judge) {
  const one = named(images, judge);
  if (!one) return null;
  const letter = one.verdicts[i];
  return h("span", {class: "said"}, mark(letter, true), VERDICTS[letter], h("span", {class: "score"}, scoreText(one.scores[i])));
}

function fields(images, others, names, state, judge, change) {
  const categories = [...new Set(images.allCombos.flat())].sort(), both = images.judges.filter((one) => named(others, one.name));
  const show = ["flips", ...GROUPS].map((group) => [group, groupName(group, names)]);
  return [
    judge && choice("Show", [["", "all pairs"], ...show], state.get("show") || "", (value) => change({show: value})),
    categories.length > 1 && choice("Category", [["", "all"], ...categories.map((one) => [one, one])], state.get("category") || "", (value) => change({category: value})),
    choice("Order", [["", judge ? "flips first" : "largest change first"], ["stored", "as stored"],
      ...both.flatMap(({name}) => [[`up:${name}`, `${name}, rose most`], [`down:${name}`, `${name}, fell most`]])],
    state.get("sort") || "", (value) => change({sort: value})),
  ];
}
