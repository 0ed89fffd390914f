// A curve of training.

import {h, svg} from "./dom.js";
import {count} from "./format.js";

const W = 340, H = 110, LEFT = 44, BOTTOM = 20, TOP = 8;

/** One training: {name, seconds, hash, n_steps, losses}. */
export function curve(one) {
  const values = one.losses.map((value, i) => [i, value]).filter(([, value]) => value !== null);
  const caption = h("figcaption", {}, h("b", {}, one.name),
    ` ${[one.n_steps ? `${count(one.n_steps)} steps` : "", typeof one.seconds === "number" ? `${count(Math.round(one.seconds))} s` : ""].filter(Boolean).join(", ")}`);
  if (values.length < 2) return h("figure", {class: "curve"}, caption, h("p", {class: "muted"}, "no losses are kept"));
  const heights = values.map(([, value]) => value);
  const low = Math.min(...heights), high = Math.max(...heights), span = high - low || 1;
  const x = (i) => LEFT + (i / Math.max(1, one.losses.length - 1)) * (W - LEFT - 6), y = (value) => TOP + (1 - (value - low) / span) * (H - TOP - BOTTOM);
  const points = values.map(([i, value]) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const tick = (value) => [svg("line", {x1: LEFT, x2: W, y1: y(value), y2: y(value), class: "gridline"}), svg("text", {x: LEFT - 6, y: y(value) + 4, "text-anchor": "end"}, value.toPrecision(3))];
  return h("figure", {class: "curve"}, caption,
    svg("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Loss of ${one.name}: from ${heights[0].toPrecision(3)} to ${heights.at(-1).toPrecision(3)}`},
      tick(low), tick(high), svg("polyline", {points, class: "line"}),
      svg("text", {x: LEFT, y: H - 5}, "0"), svg("text", {x: W - 4, y: H - 5, "text-anchor": "end"}, count(one.n_steps))));
}
