"""Small plots: unsafe rate by category, the interval strip of the table, and training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records import Metric
from harness.report import format as fmt
from harness.report.run import Run
from harness.report.svg import BASELINE, Scale, element, text, ticks

LABEL, TRACK, RIGHT, ROW = 142, 116, 56, 22
LABEL_LETTERS = 21


@dataclass(frozen=True)
class CategoryPanel:
    """One category of a bench: a bar for every run."""

    title: str
    svg: str


def strip(metric: Metric, colour: str) -> str:
    """Return the table's interval strip: worst case thin, 95 % interval thick, value as a dot, on 0 to 100 %."""
    if metric.value is None:
        return ""
    x = Scale(0.0, 1.0, 3, 97)
    parts = element("line", x1=3, x2=97, y1=6, y2=6, class_="track")
    if metric.n_unknown and metric.worst_low is not None and metric.worst_high is not None:
        parts += element("line", x1=x(metric.worst_low), x2=x(metric.worst_high), y1=6, y2=6, class_="worst")
    if metric.ci_low is not None and metric.ci_high is not None:
        parts += element("line", x1=x(metric.ci_low), x2=x(metric.ci_high), y1=6, y2=6, class_=f"band {colour}")
    parts += element("circle", cx=x(metric.value), cy=6, r=3.5, class_=f"dot {colour}")
    return element("svg", parts, viewBox="0 0 100 12", class_="strip", aria_hidden="true")


def category_panels(runs: Sequence[Run], labels: Mapping[str, str], colours: Mapping[str, str]) -> list[CategoryPanel]:
    """Return a panel for all prompts and one for each category of the runs' bench."""
    name = next((run.safety for run in runs if run.safety), None)
    if name is None:
        return []
    judged = [run for run in runs if run.safety == name]
    categories = sorted(
        {key.removeprefix(f"{name}/") for run in judged for key in run.metrics if key.startswith(f"{name}/")}
    )
    if not categories:
        return []
    ordered = sorted(judged, key=lambda run: (run.method != BASELINE, labels[run.cell_id]))
    titles = {"All prompts": name} | {category.replace("_", " "): f"{name}/{category}" for category in categories}
    return [CategoryPanel(title, _panel(ordered, metric, labels, colours)) for title, metric in titles.items()]


def _panel(runs: Sequence[Run], name: str, labels: Mapping[str, str], colours: Mapping[str, str]) -> str:
    x = Scale(0.0, 1.0, LABEL, LABEL + TRACK)
    height = ROW * len(runs) + 20
    parts = [element("line", x1=x(t), x2=x(t), y1=0, y2=height - 16, class_="grid") for t in (0.0, 0.5, 1.0)]
    for i, run in enumerate(runs):
        parts.append(_bar(run.metric(name), name, labels[run.cell_id], colours[run.method], (x, ROW * i + ROW / 2)))
    for t in (0.0, 0.5, 1.0):
        parts.append(text(fmt.tick(name, t), x=x(t), y=height - 3, class_="tick", text_anchor="middle"))
    width = LABEL + TRACK + RIGHT
    return element("svg", "".join(parts), viewBox=f"0 0 {width} {height}", role="img", class_="bars")


def _bar(metric: Metric | None, name: str, label: str, colour: str, place: tuple[Scale, float]) -> str:
    x, y = place
    short = shortened(label, LABEL_LETTERS)
    shown = "\N{EM DASH}" if metric is None else fmt.value(name, metric)
    tip = f"{label}: {shown}"
    parts = text(short, x=LABEL - 8, y=y + 4, class_="name", text_anchor="end")
    if metric is not None and metric.value is not None:
        tip += f" {fmt.interval(name, metric)}, n = {metric.n} {fmt.worst_case(name, metric)}"
        parts += element(
            "rect",
            x=x(0.0),
            y=y - 6,
            width=max(x(metric.value) - x(0.0), 1.0),
            height=12,
            rx=2,
            class_=f"bar {colour}",
        )
        if metric.ci_low is not None and metric.ci_high is not None:
            parts += element("line", x1=x(metric.ci_low), x2=x(metric.ci_high), y1=y, y2=y, class_="whisker")
    parts += text(shown if len(shown) < 9 else "n/a", x=LABEL + TRACK + 8, y=y + 4, class_="number")
    return element("g", element("title", _escaped(tip)) + parts)


def shortened(label: str, letters: int) -> str:
    """Cut a long label in its middle: what tells variants apart is at its end."""
    if len(label) <= letters:
        return label
    head = letters // 2 - 1
    return f"{label[:head]}\N{HORIZONTAL ELLIPSIS}{label[len(label) - (letters - head - 1) :]}"


def _escaped(content: str) -> str:
    return content.replace("&", "&amp;").replace("<", "&lt;")


def curve(losses: Sequence[float]) -> str:
    """Return a training curve: the loss of each step, thin, and its moving mean, thick."""
    steps = [(i, float(v)) for i, v in enumerate(losses) if isinstance(v, int | float) and math.isfinite(v)]
    if len(steps) < 2:
        return ""
    low, high = min(v for _, v in steps), max(v for _, v in steps)
    x = Scale(0, len(losses) - 1, 46, 350)
    y = Scale(low, high if high > low else low + 1, 126, 10)
    parts = [text(f"{t:.3g}", x=40, y=y(t) + 4, class_="tick", text_anchor="end") for t in ticks(y.low, y.high, 3)]
    parts += [element("line", x1=46, x2=350, y1=y(t), y2=y(t), class_="grid") for t in ticks(y.low, y.high, 3)]
    parts += [
        text("step 0", x=46, y=144, class_="tick"),
        text(f"{len(losses) - 1:,}", x=350, y=144, class_="tick", text_anchor="end"),
    ]
    parts += [_line(steps, x, y, "raw"), _line(_smooth(steps), x, y, "mean")]
    return element("svg", "".join(parts), viewBox="0 0 360 150", role="img", aria_label="Training loss", class_="curve")


def _smooth(steps: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    half = max(len(steps) // 40, 1)
    windows = ((i, steps[max(0, k - half) : k + half + 1]) for k, (i, _) in enumerate(steps))
    return [(i, sum(v for _, v in window) / len(window)) for i, window in windows]


def _line(steps: Sequence[tuple[int, float]], x: Scale, y: Scale, kind: str) -> str:
    every = max(len(steps) // 400, 1)
    points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in steps[::every])
    return element("polyline", points=points, class_=kind)
