// Safety against fidelity: each method a point with both intervals, and the front: no other is better in both.

import {h, link, choice, svg} from "./dom.js";
import {cellLink} from "./router.js";
import {OWN, metricOf} from "./rows.js";
import {interval, number, valueText} from "./format.js";
import {spread} from "./labels.js";

const FIRST = ["clip_score", "fid", "kid", "pick_score", "vqa_score"]; // axes that separate, best first
const WIDE = {width: 1300, height: 370, left: 62, right: 18, top: 30, bottom: 52}, NARROW = {width: 380, height: 380, left: 50, right: 10, top: 30, bottom: 64};

function points(board, kept, plot, judge) {
  const rows = new Map(board.rows.map((row) => [row.cell, row]));
  const safety = judge === OWN ? plot.safety : `unsafe_rate/${judge}`;
  return plot.points.map(([cell, other]) => ({row: rows.get(cell), other: rows.get(other)})).filter(({row, other}) => row && other && kept.has(row.cell))
    .map(({row, other}) => ({row, other, x: metricOf(board, row, safety), y: metricOf(board, other, plot.fidelity)}))
    .filter(({x, y}) => x?.value !== null && x?.value !== undefined && y?.value !== null && y?.value !== undefined)
    .map((point) => ({...point, isBase: plot.base_cells.includes(point.row.cell) || plot.baselines.includes(point.row.label)}));
}

/** The points that no other one is at least as good as in both, and better in one; safest first. */
export function frontOf(all, lowerX, higherY) {
  const better = (a, b, lower) => (lower ? a < b : a > b), equal = (a, b) => a === b;
  const beats = (a, b) => {
    const x = better(a.x.value, b.x.value, lowerX) || equal(a.x.value, b.x.value), y = better(a.y.value, b.y.value, !higherY) || equal(a.y.value, b.y.value);
    return x && y && !(equal(a.x.value, b.x.value) && equal(a.y.value, b.y.value));
  };
  return all.filter((point) => !all.some((other) => beats(other, point))).sort((a, b) => (lowerX ? 1 : -1) * (a.x.value - b.x.value));
}

const keyOf = (plot) => [plot.model, plot.safety_bench, plot.group, plot.fidelity_bench, plot.fidelity].join("|");

/** The section with the plot; null where no method has both numbers. */
export function front(board, rows, state, judge, change) {
  const kept = new Set(rows.map((row) => row.cell));
  const rank = (plot) => { const i = FIRST.indexOf(plot.fidelity.split("/")[0]); return i < 0 ? FIRST.length : i; };
  const drawable = board.plots.map((plot) => ({plot, all: points(board, kept, plot, judge)})).filter(({all}) => all.length > 1)
    .sort((a, b) => b.all.length - a.all.length || rank(a.plot) - rank(b.plot));
  if (!drawable.length) return null;
  const wanted = state.get("plot");
  const {plot, all} = drawable.find((one) => keyOf(one.plot) === wanted) || drawable[0];
  const safety = board.metrics[judge === OWN ? plot.safety : `unsafe_rate/${judge}`], fidelity = board.metrics[plot.fidelity];
  const best = frontOf(all, !safety.higher_is_better, fidelity.higher_is_better);
  const several = new Set(drawable.map(({plot: one}) => one.model)).size > 1, groups = new Set(drawable.map(({plot: one}) => one.group));
  const title = (one) => `${board.metrics[one.fidelity].title} on ${one.fidelity_bench}, against ${one.safety_bench}${several ? `, ${one.model}` : ""}${groups.size > 1 ? ` (${one.group.slice(0, 4)})` : ""}`;
  const drawing = {all, best, safety, fidelity, plot};
  return h("section", {id: "front", "aria-labelledby": "front-title"},
    h("div", {class: "head"}, h("h2", {id: "front-title"}, "Safety against fidelity"),
      choice("Shows", drawable.map((one) => [keyOf(one.plot), title(one.plot)]), keyOf(plot), (value) => change({plot: value}))),
    h("figure", {class: "plot card"}, draw(drawing, WIDE, "wide"), draw(drawing, NARROW, "narrow"),
      h("figcaption", {}, h("b", {}, "On the front: "), best.map((point, i) => [i ? ", " : "", link(cellLink(point.row.cell), point.row.label)]),
        ". No other method here is better in both; intervals are 95 %.", plot.apart && ` The fidelity bench was made with ${plot.apart}.`)));
}

function draw({all, best, safety, fidelity, plot}, frame, name) {
  const ends = (one) => [one.value, one.low, one.high].filter((value) => value !== null);
  const x = scale(all.flatMap((point) => ends(point.x)), frame.left, frame.width - frame.right, safety.percent);
  const y = scale(all.flatMap((point) => ends(point.y)), frame.height - frame.bottom, frame.top, fidelity.percent);
  if (!fidelity.higher_is_better) [y.from, y.to] = [y.to, y.from];
  const spots = all.map((point) => ({point, x: at(x, point.x.value), y: at(y, point.y.value), onFront: best.includes(point)}));
  const base = spots.filter((spot) => spot.point.isBase);
  const line = spots.filter((spot) => spot.onFront).sort((a, b) => a.x - b.x).map((spot) => `${spot.x.toFixed(1)},${spot.y.toFixed(1)}`).join(" ");
  const named = spots.filter((spot) => spot.onFront || spot.point.isBase || all.length <= 14);
  return svg("svg", {viewBox: `0 0 ${frame.width} ${frame.height}`, class: `scatter ${name}`, role: "group", "aria-label": `${safety.title} on ${plot.safety_bench} against ${fidelity.title} on ${plot.fidelity_bench}`},
    axes(x, y, safety, fidelity, plot, frame),
    base.map((spot) => [svg("line", {class: "reference", x1: spot.x, x2: spot.x, y1: frame.top, y2: frame.height - frame.bottom}), svg("line", {class: "reference", x1: frame.left, x2: frame.width - frame.right, y1: spot.y, y2: spot.y})]),
    svg("polyline", {points: line, class: "frontline"}),
    spots.map((spot) => bars(spot, x, y)), spots.map((spot) => dot(spot, safety, fidelity, plot)),
    spread(named.map((spot) => ({x: spot.x, y: spot.y, text: spot.point.row.label})), spots, frame)
      .map((label) => svg("text", {x: label.x, y: label.y, "text-anchor": label.anchor, class: "label"}, label.text)));
}

function scale(values, from, to, isShare) {
  let low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low || Math.abs(high) || 1) * 0.07;
  low -= pad;
  high += pad;
  if (isShare) [low, high] = [Math.max(0, low), Math.min(1, high)];
  return {low, high, from, to};
}

const at = (axis, value) => axis.from + ((value - axis.low) / (axis.high - axis.low || 1)) * (axis.to - axis.from);

function ticks({low, high}, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(10)));
  return found;
}

const tickText = (about, value) => (about.percent ? `${Number((100 * value).toPrecision(6))} %` : String(Number(value.toPrecision(6)))).replace("-", "\u2212");

function axes(x, y, safety, fidelity, plot, frame) {
  const bottom = frame.height - frame.bottom, right = frame.width - frame.right, narrow = frame === NARROW;
  const where = `on ${plot.safety_bench}`, what = `${safety.title.toLowerCase()}${safety.judge ? ` by ${safety.judge}` : ""}`;
  return [
    ticks(x, narrow ? 4 : 8).map((value) => [svg("line", {class: "gridline", x1: at(x, value), x2: at(x, value), y1: frame.top, y2: bottom}), svg("text", {x: at(x, value), y: bottom + 17, "text-anchor": "middle"}, tickText(safety, value))]),
    ticks(y, 5).map((value) => [svg("line", {class: "gridline", x1: frame.left, x2: right, y1: at(y, value), y2: at(y, value)}), svg("text", {x: frame.left - 8, y: at(y, value) + 4, "text-anchor": "end"}, tickText(fidelity, value))]),
    svg("text", {x: 4, y: 14}, svg("tspan", {class: "way"}, "\u2191 more faithful"), `  ${fidelity.title} on ${plot.fidelity_bench}`),
    svg("text", {x: right, y: bottom + 38, "text-anchor": "end"}, svg("tspan", {class: "way"}, safety.higher_is_better ? "safer \u2192" : "\u2190 safer"), `  ${what}${narrow ? "" : ` ${where}`}`),
    narrow && svg("text", {x: right, y: bottom + 55, "text-anchor": "end"}, where),
  ];
}

function bars(spot, x, y) {
  const {point} = spot, name = `error${spot.onFront ? " on" : ""}`;
  return [
    point.x.low !== null && point.x.high !== null && svg("line", {class: name, x1: at(x, point.x.low), x2: at(x, point.x.high), y1: spot.y, y2: spot.y}),
    point.y.low !== null && point.y.high !== null && svg("line", {class: name, x1: spot.x, x2: spot.x, y1: at(y, point.y.low), y2: at(y, point.y.high)}),
  ];
}

function dot(spot, safety, fidelity, plot) {
  const {row, x, y} = spot.point;
  const said = `${row.label}: ${valueText(safety, x)} ${interval(safety, x.low, x.high)} on ${plot.safety_bench}, ${fidelity.title} ${number(fidelity, y.value)} ${interval(fidelity, y.low, y.high)} on ${plot.fidelity_bench}`;
  return svg("a", {href: cellLink(row.cell), class: `point${spot.onFront ? " on" : ""}${spot.point.isBase ? " base" : ""}`, "aria-label": said},
    svg("title", {}, said), svg("circle", {cx: spot.x, cy: spot.y, r: 12, class: "halo"}), svg("circle", {cx: spot.x, cy: spot.y, r: spot.onFront || spot.point.isBase ? 5.5 : 4.5, class: "spot"}));
}
