"""A history as a table, as records, and as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from harness.comparisons.history import History, Line, Point
from harness.comparisons.table import Table
from harness.lib.formatting import counted
from harness.report import format as fmt
from harness.report.export import no_formula

PLACE = ("model", "bench", "metric")  # in the title where it is the same in all lines
HEADINGS = ("method", "date (UTC)", "value [95 %]", "n", "since before", "remark", "cell")


def table(found: History) -> Table:
    """Return one row a point, lines below each other."""
    varying = [key for key in PLACE if len({getattr(line, key) for line in found.lines}) > 1]
    rows = [(*(str(getattr(line, key)) for key in varying), *_row(line, point, before)) for line in found.lines
            for point, before in zip(line.points, (None, *line.points), strict=False)]  # fmt: skip
    same = [str(getattr(found.lines[0], key)) for key in PLACE if key not in varying]
    title = f"{counted(len(rows), 'number')} in {counted(len(found.lines), 'line')}: {', '.join(same)}"
    headings = (*varying, *HEADINGS)
    return Table(title.removesuffix(": "), headings, tuple(rows), (), set(headings) - {"n", "since before"})


def _row(line: Line, point: Point, before: Point | None) -> tuple[str, ...]:
    metric, name = point.metric, line.metric
    value = f"{fmt.value(name, metric)} {fmt.interval(name, metric)}".strip()
    return (line.method, f"{point.date:%Y-%m-%d %H:%M}", value, f"{metric.n:,}", since(line, point, before),
            remark(point), point.cell_id)  # fmt: skip


def since(line: Line, point: Point, before: Point | None) -> str:
    """Return the change since the point before; empty where the two cannot be joined."""
    if before is None or point.changed or point.metric.value is None or before.metric.value is None:
        return ""
    change = point.metric.value - before.metric.value
    text = f"{100 * change:+.1f} pts" if fmt.is_percent(line.metric) else f"{change:+.4g}"
    return text.replace("-", fmt.MINUS)


def remark(point: Point) -> str:
    """Say what is not as before, and whether the run is whole."""
    told = [f"changed: {point.changed}"] if point.changed else []
    return "; ".join(told + ([point.status] if point.status != "complete" else []))


def notes(found: History) -> list[str]:
    return [f"left out: {counted(count, 'run')} {reason}" for reason, count in found.left_out.items()]


def records(found: History) -> list[dict[str, Any]]:
    """Return one flat record a point."""
    return [
        {"model": line.model, "bench": line.bench, "method": line.method, "metric": line.metric,
         "date": point.date.isoformat(), "cell_id": point.cell_id, "source": point.source, "status": point.status,
         "changed": point.changed or None, **asdict(point.metric)}
        for line in found.lines for point in line.points
    ]  # fmt: skip


def json_text(found: History) -> str:
    record = {"schema": 1, "points": records(found), "left_out": dict(found.left_out)}
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(found: History) -> str:
    rows, out = records(found), io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: no_formula(value) for key, value in one.items()} for one in rows])
    return out.getvalue()
