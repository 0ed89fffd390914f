"""The safety-fidelity plot as SVG: error bars, labels that keep clear of each other, sweeps as fronts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from harness.report import format as fmt
from harness.report.bars import shortened
from harness.report.run import Run
from harness.report.svg import Scale, element, padded, text, ticks
from harness.report.tradeoff import Plot, Point, fronts, pareto

ROOM = 16_000  # square units that a label needs around it
LETTERS = 24  # of a label where there are many
COVERED = 60  # square units that such a label may cover of others

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Frame:
    """Size of a plot in user units, its margins, and the width of a letter of its labels."""

    width: int
    height: int
    left: int = 54
    right: int = 18
    top: int = 34
    bottom: int = 58
    letter: float = 7.3


WIDE, NARROW = Frame(760, 450), Frame(360, 350, left=46, right=10)


@dataclass(frozen=True)
class Spot:
    """Where a point lands: its centre, and the ends of its error bars (None: no interval)."""

    point: Point
    x: float
    y: float
    across: tuple[float, float] | None
    up: tuple[float, float] | None
    colour: str


def scatter(plot: Plot, colours: Mapping[str, str], frame: Frame) -> str:
    """Return the plot as SVG."""
    x, y = _scales(plot, frame)
    spots = {p.run.cell_id: _spot(p, x, y, colours[p.variant.method]) for p in plot.points}
    parts = [_axes(plot, frame, x, y), *(_reference(spot, plot, frame) for spot in spots.values())]
    for line in fronts(plot.points):
        ends = [spots[p.run.cell_id] for p in line]
        path = " ".join(f"{spot.x:.1f},{spot.y:.1f}" for spot in ends)
        parts.append(element("polyline", points=path, class_=f"front {ends[0].colour}"))
    parts.append(_pareto([spots[p.run.cell_id] for p in pareto(plot.points)]))
    parts += [_error_bars(spot) for spot in spots.values()]
    parts += [_dot(spot, plot) for spot in spots.values()]
    parts += _labels(list(spots.values()), plot, shown_labels(plot, frame), frame)
    label = f"{plot.safety_name} on {plot.safety_bench} against {plot.fidelity_name} on {plot.fidelity_bench}"
    size = f"0 0 {frame.width} {frame.height}"
    return element("svg", "".join(parts), viewBox=size, role="group", aria_label=label, class_="scatter")


def short_labels(points: Sequence[Point]) -> dict[str, str]:
    """Return a label for each cell id: in a sweep the safest point is named in full, the others by what differs."""
    labels = {p.run.cell_id: p.variant.label for p in points}
    for line in fronts(points):
        safest = min(line, key=lambda p: p.safety.value or 0.0)
        for p in line:
            if p is not safest:
                labels[p.run.cell_id] = p.variant.label.removeprefix(p.variant.method).strip()
    return labels


def shown_labels(plot: Plot, frame: Frame) -> dict[str, str]:
    """Return the labels to write: where points are many, those of the Pareto front and of the baselines."""
    labels = short_labels(plot.points)
    if len(labels) * ROOM <= frame.width * frame.height:
        return labels
    front = {p.run.cell_id for p in pareto(plot.points)}
    named = {p.run.cell_id: p.variant.label for p in plot.points if p.run.cell_id in front or _is_baseline(p.run, plot)}
    return {cell: shortened(label, LETTERS) for cell, label in named.items()}


def _is_baseline(run: Run, plot: Plot) -> bool:
    return run.name in plot.baselines or run.cell_id in plot.base_cells


def _pareto(front: Sequence[Spot]) -> str:
    """Return the front as steps: each point is the best up to the next."""
    path = [f"{front[0].x:.1f},{front[0].y:.1f}"] if front else []
    for before, after in pairwise(front):
        path += [f"{after.x:.1f},{before.y:.1f}", f"{after.x:.1f},{after.y:.1f}"]
    return element("polyline", points=" ".join(path), class_="pareto") if len(front) > 1 else ""


def _scales(plot: Plot, frame: Frame) -> tuple[Scale, Scale]:
    safety, fidelity = [p.safety for p in plot.points], [p.fidelity for p in plot.points]
    xs = [v for m in safety for v in (m.value, m.ci_low, m.ci_high) if v is not None]
    ys = [v for m in fidelity for v in (m.value, m.ci_low, m.ci_high) if v is not None]
    x_low, x_high = padded([0.0, *xs], 0.05)
    y_low, y_high = padded(ys, 0.12)
    x = Scale(max(x_low, 0.0), min(x_high, 1.0), frame.left, frame.width - frame.right)
    bottom, top = frame.height - frame.bottom, frame.top
    higher = fidelity[0].higher_is_better
    return x, Scale(y_low, y_high, bottom, top) if higher else Scale(y_low, y_high, top, bottom)


def _spot(point: Point, x: Scale, y: Scale, colour: str) -> Spot:
    s, f = point.safety, point.fidelity
    across = (x(s.ci_low), x(s.ci_high)) if s.ci_low is not None and s.ci_high is not None else None
    up = (y(f.ci_low), y(f.ci_high)) if f.ci_low is not None and f.ci_high is not None else None
    return Spot(point, x(s.value or 0.0), y(f.value or 0.0), across, up, colour)


def _axes(plot: Plot, frame: Frame, x: Scale, y: Scale) -> str:
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    parts = []
    for tick in ticks(x.low, x.high, 4 if frame is NARROW else 8):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=frame.top, y2=bottom, class_="grid"))
        label = fmt.tick(plot.safety_name, tick)
        parts.append(text(label, x=x(tick), y=bottom + 18, class_="tick", text_anchor="middle"))
    for tick in ticks(y.low, y.high, 5):
        parts.append(element("line", x1=frame.left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        label = fmt.tick(plot.fidelity_name, tick)
        parts.append(text(label, x=frame.left - 8, y=y(tick) + 4, class_="tick", text_anchor="end"))
    above, below = (4, 14), (right, frame.height - 12)
    upward = f"{fmt.words(plot.fidelity_name)} on {plot.fidelity_bench}"
    across, where = fmt.by_whom(plot.safety_name), f"on {plot.safety_bench}"
    parts.append(_caption("\N{UPWARDS ARROW} more faithful", upward, above, "start"))
    if len(f"{across} {where}") * frame.letter > frame.width - 100:  # in two lines, where one is too long
        parts.append(text(where, x=right, y=frame.height - 3, text_anchor="end", class_="axis"))
        below, where = (right, frame.height - 19), ""
    parts.append(_caption("\N{LEFTWARDS ARROW} safer", f"{across} {where}".strip(), below, "end"))
    return "".join(parts)


def _caption(direction: str, what: str, place: tuple[float, float], anchor: str) -> str:
    """Return an axis title: which way is better, then what is measured."""
    spans = element("tspan", direction, class_="way") + element("tspan", escape(f"  {what}"))
    return element("text", spans, x=place[0], y=place[1], text_anchor=anchor, class_="axis")


def _reference(spot: Spot, plot: Plot, frame: Frame) -> str:
    """Return dashed lines through a baseline; nothing for others."""
    if not _is_baseline(spot.point.run, plot):
        return ""
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    upright = element("line", x1=spot.x, x2=spot.x, y1=frame.top, y2=bottom, class_="reference")
    return upright + element("line", x1=frame.left, x2=right, y1=spot.y, y2=spot.y, class_="reference")


def _error_bars(spot: Spot) -> str:
    name, parts = f"error {spot.colour}", ""
    if spot.across:
        parts += element("line", x1=spot.across[0], x2=spot.across[1], y1=spot.y, y2=spot.y, class_=name)
    if spot.up:
        parts += element("line", x1=spot.x, x2=spot.x, y1=spot.up[0], y2=spot.up[1], class_=name)
    return parts


def _dot(spot: Spot, plot: Plot) -> str:
    point, lines = spot.point, [spot.point.variant.label]
    for name, metric, bench in (
        (plot.safety_name, point.safety, plot.safety_bench),
        (plot.fidelity_name, point.fidelity, plot.fidelity_bench),
    ):
        lines.append(f"{name} on {bench}: {fmt.value(name, metric)} {fmt.interval(name, metric)}".strip())
    tip = "\n".join(lines)
    circles = element("circle", cx=spot.x, cy=spot.y, r=14, class_="halo")
    circles += element("circle", cx=spot.x, cy=spot.y, r=6, class_=f"dot {spot.colour}")
    where = {"data_run": point.run.cell_id, "data_tip": tip, "aria_label": tip}
    return element("g", circles, class_="point", tabindex=0, role="button", **where)


def _labels(spots: Sequence[Spot], plot: Plot, labels: Mapping[str, str], frame: Frame) -> list[str]:
    """Put every label beside its dot, where it covers least of dots, error bars and other labels.

    Where only some points are to have a label, one that would cover much is left out.
    """
    taken = [box for spot in spots for box in _boxes(spot)]
    parts = []
    for spot in spots:
        label = labels.get(spot.point.run.cell_id)
        if label is None:
            continue
        places = _places(spot, frame.letter * len(label))
        boxes = [(left, base - 11, left + frame.letter * len(label), base + 3) for left, base in places]
        others = [other for other in spots if other is not spot]
        costs = [
            _overlap(box, taken) + _outside(box, frame) + _ambiguity(box, spot, others) + i
            for i, box in enumerate(boxes)
        ]
        best = costs.index(min(costs))
        if len(labels) < len(spots) and costs[best] > COVERED and not _is_baseline(spot.point.run, plot):
            continue
        taken.append(boxes[best])
        parts.append(text(label, x=places[best][0], y=places[best][1], class_="label"))
    return parts


def _ambiguity(box: Box, labelled: Spot, others: Sequence[Spot]) -> float:
    """Return the price of a label that stands nearer to another dot than to its own."""
    return 400.0 if any(_distance(box, other) < _distance(box, labelled) for other in others) else 0.0


def _distance(box: Box, spot: Spot) -> float:
    sideways = max(box[0] - spot.x, 0.0, spot.x - box[2])
    return math.hypot(sideways, max(box[1] - spot.y, 0.0, spot.y - box[3]))


def _boxes(spot: Spot) -> list[Box]:
    """Return what a point covers: its dot and, thinly, its error bars."""
    boxes = [(spot.x - 8, spot.y - 8, spot.x + 8, spot.y + 8)]
    boxes += [(spot.across[0], spot.y - 1, spot.across[1], spot.y + 1)] if spot.across else []
    boxes += [(spot.x - 1, min(spot.up), spot.x + 1, max(spot.up))] if spot.up else []
    return boxes


def _places(spot: Spot, width: float) -> list[tuple[float, float]]:
    """Return where a label may start, the liked places first."""
    right, left, middle = spot.x + 11, spot.x - 11 - width, spot.x - width / 2
    above, below = spot.y - 9, spot.y + 18
    high, low = (min(spot.up) - 6, max(spot.up) + 14) if spot.up else (spot.y - 14, spot.y + 22)
    beside = spot.across[1] + 6 if spot.across else right
    before = spot.across[0] - 6 - width if spot.across else left
    return [(right, above), (right, below), (left, above), (left, below), (middle, high), (middle, low),
            (beside, spot.y + 4), (before, spot.y + 4)]  # fmt: skip


def _overlap(box: Box, taken: Sequence[Box]) -> float:
    wide = [max(0.0, min(box[2], other[2]) - max(box[0], other[0])) for other in taken]
    high = [max(0.0, min(box[3], other[3]) - max(box[1], other[1])) for other in taken]
    return sum(w * h for w, h in zip(wide, high, strict=True))


def _outside(box: Box, frame: Frame) -> float:
    sideways = max(0.0, frame.left - box[0]) + max(0.0, box[2] - frame.width + 4)
    return 100 * (sideways + max(0.0, frame.top - box[1]) + max(0.0, box[3] - frame.height + frame.bottom))
