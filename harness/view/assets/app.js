// The shell: which page the address names, theme, keys, and what changes while one looks.

import {h, put, link} from "./dom.js";
import {here, boardLink} from "./router.js";
import {getBoard, forget} from "./data.js";
import {wireTheme} from "./theme.js";
import {wireKeys} from "./keys.js";

// A page is a module with show(main, {parts, params}): it fills `main` and may return {title, crumbs, changed(cells),
// leave()}: crumbs are [address, text] below the board; changed() is called when cells of the results have changed.
const PAGES = [
  [(parts) => parts.length === 0, () => import("./board.js")],
  [(parts) => parts.length === 2 && parts[0] === "cell", () => import("./cell.js")],
  [(parts) => parts.length === 5 && parts[0] === "cell" && parts[2] === "image", () => import("./image.js")],
  [(parts) => parts.length === 3 && parts[0] === "compare", () => import("./compare.js")],
];
const main = document.getElementById("main");
let shown = null, turn = 0, path = null;

async function draw() {
  const now = here(), mine = ++turn;
  const found = PAGES.find(([fits]) => fits(now.parts));
  if (shown?.leave) shown.leave();
  shown = null;
  put(main, h("p", {class: "loading"}, "Loading\u2026"));
  window.scrollTo(0, 0);
  try {
    if (!found) throw new Error("There is no such page.");
    const page = await found[1]();
    const holder = h("div", {class: "page"});
    const state = (await page.show(holder, now)) || {};
    if (mine !== turn) return void state.leave?.();
    put(main, holder);
    shown = state;
    if (state.shown) state.shown();
    await header(state);
  } catch (error) {
    if (mine === turn) put(main, h("p", {class: "problem", role: "alert"}, error.message), link(boardLink(), "To the board"));
  }
  path = now.parts.join("/");
}

async function header(state) {
  const {name} = await getBoard();
  document.title = [state.title, name].filter(Boolean).join(" \u00b7 ");
  const crumbs = [[boardLink(), name], ...(state.crumbs || [])];
  put(document.getElementById("crumbs"), h("ol", {}, crumbs.map(([address, text], i) =>
    h("li", {}, link(address, text, i === crumbs.length - 1 ? {"aria-current": "page"} : {})))));
}

window.addEventListener("hashchange", () => {
  const keepsPlace = here().parts.join("/") === path; // only the state behind the page changed
  if (!keepsPlace || !shown?.params) draw();
  else shown.params(here().params);
});

// A browser keeps six lines open to one host, for all tabs: a tab that nobody looks at gives its line back.
function listen({live, version: first}) {
  if (!live || !window.EventSource) return;
  const status = document.getElementById("live");
  let events = null, before = first, again = false;
  const say = (on, text) => put(status, h("span", {class: on ? "dot on" : "dot"}), text);

  async function caughtUp() {
    say(true, "live");
    forget(again ? null : []); // what changed before the line was open, or while it was closed
    const missed = again, {version, rows} = await getBoard();
    again = true;
    if (before !== version) shown?.changed?.(missed ? rows.map((row) => row.cell) : []);
    before = version;
  }

  function open() {
    events = new EventSource("events");
    events.addEventListener("ready", () => { caughtUp().catch(() => {}); });
    events.addEventListener("changed", (event) => {
      const {cells} = JSON.parse(event.data);
      forget(cells);
      shown?.changed?.(cells);
    });
    events.onerror = () => say(false, "not connected");
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      events?.close();
      events = null;
    } else if (!events) open();
  });
  if (!document.hidden) open();
}

document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
wireTheme(document.getElementById("theme"));
wireKeys(document.getElementById("help"), document.getElementById("keys"));
draw();
getBoard().then(listen, () => {});
