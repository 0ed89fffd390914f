// A grid of any number of tiles, of which only those near the window exist. Arrow keys go from tile to tile.

import {h} from "./dom.js";

const GAP = 14, AHEAD = 1; // pixels between tiles; windows drawn ahead, above and below

/** {n, tile(place) -> element with one link, caption: pixels below the image, least: a tile's least width,
    ratio: of the image's height to its width, fewest: how many stand side by side on the narrowest page}.

    Returns {element, draw(), leave(), focus(place)}: `draw` after it is in the document, and when the size changes. */
export function grid({n, tile, caption, least, label, ratio = 1, fewest = 2}) {
  const holder = h("div", {class: "grid", role: "list", "aria-label": label});
  const drawn = new Map();
  let columns = 1, side = least, current = 0, asked = 0;
  const height = () => Math.round(side * ratio) + caption;

  function place(element, at) {
    const row = Math.floor(at / columns), column = at % columns;
    element.style.width = `${side}px`;
    element.style.height = `${height()}px`;
    element.style.transform = `translate(${column * (side + GAP)}px, ${row * (height() + GAP)}px)`;
    element.style.setProperty("--side", `${side}px`);
  }

  function measure() {
    const width = holder.clientWidth || least;
    columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
    if (width < 2 * least + GAP) columns = Math.min(fewest, n || 1);
    side = Math.floor((width - GAP * (columns - 1)) / columns);
    holder.style.height = `${Math.max(0, Math.ceil(n / columns) * (height() + GAP) - GAP)}px`;
  }

  function range() {
    const top = holder.getBoundingClientRect().top, line = height() + GAP, window_ = window.innerHeight;
    const first = Math.floor((-top - AHEAD * window_) / line), last = Math.ceil((-top + (1 + AHEAD) * window_) / line);
    return [Math.max(0, first) * columns, Math.min(n, Math.max(0, last) * columns)];
  }

  function add(at) {
    if (drawn.has(at) || at < 0 || at >= n) return drawn.get(at);
    const element = tile(at);
    element.setAttribute("role", "listitem");
    element.setAttribute("aria-setsize", n);
    element.setAttribute("aria-posinset", at + 1);
    element.dataset.at = at;
    element.querySelector("a").tabIndex = at === current ? 0 : -1;
    place(element, at);
    drawn.set(at, element);
    holder.append(element);
    return element;
  }

  function draw() {
    const [first, last] = range();
    for (const [at, element] of drawn) {
      if (at >= first && at < last) continue;
      if (element.contains(document.activeElement)) continue;
      for (const image of element.querySelectorAll("img")) image.removeAttribute("src"); // nobody waits for it
      element.remove();
      drawn.delete(at);
    }
    for (let at = first; at < last; at++) add(at);
  }

  function again() {
    measure();
    for (const [at, element] of drawn) place(element, at);
    draw();
  }

  const soon = () => { if (!asked) asked = requestAnimationFrame(() => { asked = 0; draw(); }); };

  function focus(at) {
    const to = Math.min(Math.max(at, 0), n - 1), before = drawn.get(current)?.querySelector("a");
    const link = add(to).querySelector("a");
    if (before) before.tabIndex = -1;
    current = to;
    link.tabIndex = 0;
    link.focus({preventScroll: true});
    link.scrollIntoView({block: "nearest"});
  }

  holder.addEventListener("keydown", (event) => {
    const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns};
    const at = Number(event.target.closest("[data-at]")?.dataset.at ?? current);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) focus(at + steps[event.key]);
    else if (event.key === "Home") focus(0);
    else if (event.key === "End") focus(n - 1);
    else return;
    event.preventDefault();
  });
  const sizes = new ResizeObserver(again);
  window.addEventListener("scroll", soon, {passive: true});
  window.addEventListener("resize", soon);
  return {
    element: holder,
    draw() {
      again();
      sizes.observe(holder.parentElement || holder);
    },
    drawn: () => [...drawn.values()],
    focus,
    leave() {
      sizes.disconnect();
      window.removeEventListener("scroll", soon);
      window.removeEventListener("resize", soon);
    },
  };
}
