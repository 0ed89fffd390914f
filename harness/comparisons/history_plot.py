"""A history drawn: a panel for each model, benchmark and metric, a line for each method, intervals as whiskers."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html import escape
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.comparisons.history import History, Line, Point, value_ends
from harness.comparisons.history_text import notes, remark, since, table
from harness.report import format as fmt
from harness.report.svg import Scale, colours, element, padded, text, ticks

RIGHT, TOP, BOTTOM = 20, 16, 40
INSET = 14  # of the first and last date
APART = 6.0  # between whiskers of one date
DAY = 86_400.0
STEPS = (1 / 24, 0.25, 0.5, 1, 2, 3, 5, 7, 14, 30, 91, 182, 365)  # days between the ticks of the axis


@dataclass(frozen=True)
class Frame:
    """Size of a plot in user units, its left margin, and about how many dates its axis has room for."""

    width: int
    height: int
    left: int
    dates: int


WIDE, NARROW = Frame(760, 340, 64, 6), Frame(360, 300, 52, 3)  # for a desk, for a phone


@dataclass(frozen=True)
class Panel:
    """One plot with its lines; `colours` are classes by method."""

    model: str
    bench: str
    metric: str
    lines: tuple[Line, ...]
    colours: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{fmt.by_whom(self.metric)} on {self.bench}, {self.model}"


def panels(found: History) -> list[Panel]:
    """Sort the lines into panels; a method has one colour in all of them."""
    palette = colours(line.method for line in found.lines)
    places: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in found.lines:
        places[line.model, line.bench, line.metric].append(line)
    return [Panel(*place, tuple(lines), palette) for place, lines in places.items()]


def plot(panel: Panel, frame: Frame) -> str:
    """Return a panel as an SVG element without a style of its own."""
    points = [point for line in panel.lines for point in line.points]
    x, y = _scales(points, panel.metric, frame)
    parts = [*_grid(x, y, panel.metric, frame)]
    for i, line in enumerate(panel.lines):
        beside = (i - (len(panel.lines) - 1) / 2) * min(APART, 40 / len(panel.lines))
        moved = replace(x, start=x.start + beside, end=x.end + beside)  # lines of one night do not hide each other
        parts += _line(line, panel.colours[line.method], moved, y)
    return element("svg", "".join(parts), viewBox=f"0 0 {frame.width} {frame.height}", role="img", class_="history",
                   aria_label=panel.title, xmlns="http://www.w3.org/2000/svg")  # fmt: skip


def _scales(points: Sequence[Point], metric: str, frame: Frame) -> tuple[Scale, Scale]:
    dates = [point.date.timestamp() for point in points]
    room = max((max(dates) - min(dates)) * 0.04, DAY / 4)
    ends = [end for point in points for end in value_ends(point.metric)]
    low, high = padded(ends)
    if fmt.is_percent(metric):
        low, high = max(low, 0.0), min(high, 1.0)
        low, high = (low, high) if low < high else (0.0, 1.0)
    return (Scale(min(dates) - room, max(dates) + room, frame.left + INSET, frame.width - RIGHT - INSET),
            Scale(low, high, frame.height - BOTTOM, TOP))  # fmt: skip


def _grid(x: Scale, y: Scale, metric: str, frame: Frame) -> Iterator[str]:
    left, right, bottom = frame.left, frame.width - RIGHT, frame.height - BOTTOM
    for value in ticks(y.low, y.high):
        yield element("line", x1=left, x2=right, y1=y(value), y2=y(value), class_="grid")
        yield text(fmt.tick(metric, value), x=left - 8, y=y(value) + 4, text_anchor="end", class_="tick")
    for date, said in date_ticks(x.low, x.high, frame.dates):
        yield element("line", x1=x(date), x2=x(date), y1=bottom, y2=bottom + 5, class_="axis")
        yield text(said, x=x(date), y=bottom + 20, text_anchor="middle", class_="tick")


def date_ticks(low: float, high: float, count: int = 6) -> list[tuple[float, str]]:
    """Return about `count` round times within two POSIX times, with their texts."""
    span = (high - low) / DAY
    step = next((step for step in STEPS if span / step <= count), max(STEPS[-1], span / count)) * DAY
    first = -(-low // step) * step
    form = "%Y-%m-%d" if step >= DAY else "%m-%d %H:%M"
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    times = [first + i * step for i in range(count + 1) if first + i * step <= high]
    return [(time, f"{epoch + timedelta(seconds=time):{form}}") for time in times]


def _line(line: Line, colour: str, x: Scale, y: Scale) -> Iterator[str]:
    """Yield whiskers, pieces of the line between changes of judge or settings, and dots with their numbers."""
    for piece in _pieces(line.points):
        path = " ".join(f"{x(p.date.timestamp()):.1f},{y(p.metric.value or 0.0):.1f}" for p in piece)
        yield element("polyline", points=path, class_=f"line {colour}")
    for point, before in zip(line.points, (None, *line.points), strict=False):
        at, (low, high) = x(point.date.timestamp()), value_ends(point.metric)
        shown = element("title", escape(tip(line, point, before)))
        shown += element("line", x1=at, x2=at, y1=y(low), y2=y(high), class_=f"whisker {colour}")
        shown += element("circle", cx=at, cy=y(point.metric.value or 0.0), r=4.0, class_=f"dot {colour}")
        yield element("g", shown)


def _pieces(points: Sequence[Point]) -> list[list[Point]]:
    pieces: list[list[Point]] = []
    for point in points:
        if point.changed or not pieces:
            pieces.append([])
        pieces[-1].append(point)
    return [piece for piece in pieces if len(piece) > 1]


def tip(line: Line, point: Point, before: Point | None) -> str:
    """Say all that a dot stands for."""
    metric, name = point.metric, line.metric
    parts = (f"{line.method}, {point.date:%Y-%m-%d %H:%M} UTC", fmt.value(name, metric), fmt.interval(name, metric),
             f"n = {metric.n:,}", since(line, point, before), remark(point))  # fmt: skip
    return "; ".join(filter(None, parts))


def svg_text(panel: Panel) -> str:
    """Return a panel as a file of its own: with its style, title and legend."""
    inside, left, below = plot(panel, WIDE), WIDE.left, WIDE.height
    height = below + 34 + 18 * len(panel.lines)
    legend = [element("circle", cx=left + 4, cy=below + 40 + 18 * i, r=4.0, class_=f"dot {panel.colours[line.method]}")
              + text(line.method, x=left + 14, y=below + 44 + 18 * i, class_="tick")
              for i, line in enumerate(panel.lines)]  # fmt: skip
    body = (f"<style>{_asset('history.css')}</style>"
            + element("rect", width=WIDE.width, height=height + 12, class_="ground")
            + text(panel.title, x=left, y=20, class_="title")
            + element("g", inside.partition(">")[2].removesuffix("</svg>"), transform="translate(0 24)")
            + element("g", "".join(legend), transform="translate(0 4)"))  # fmt: skip
    return element("svg", body, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDE.width} {height + 12}",
                   role="img", aria_label=panel.title) + "\n"  # fmt: skip


def page(found: History) -> str:
    """Return the whole history as one page that needs no network."""
    style = _asset("history.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    environment = Environment(loader=PackageLoader("harness.comparisons", "assets"), autoescape=True,
                              trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)  # fmt: skip
    drawn = [(panel, *(Markup(plot(panel, frame)) for frame in (WIDE, NARROW))) for panel in panels(found)]
    return environment.get_template("history.html.j2").render(
        policy=policy, style=Markup(style), panels=drawn, table=table(found), notes=notes(found))  # fmt: skip


def _asset(name: str) -> str:
    return resources.files("harness.comparisons").joinpath("assets", name).read_text(encoding="utf-8")
