"""One table over several benches: a row a method, the columns that the configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from harness.errors import InvalidValueError, unknown_name
from harness.report import format as fmt
from harness.report.runs import Run
from harness.report.variants import Variant, variants

DASH = "\N{EM DASH}"
SPECIAL = ("training_seconds", "relative_seconds")


@dataclass(frozen=True)
class OverviewColumn:
    """What a column shows: a metric of a bench, with its paired difference to the baseline if `difference`.

    `training_seconds` is what a method's artifacts took to make; `relative_seconds` the seconds per image of the
    bench, divided by the baseline's.
    """

    title: str
    metric: str
    bench: str | None = None
    difference: bool = False

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> OverviewColumn:
        """Check a column of the configuration. Raises HarnessError."""
        known = ("title", "metric", "bench", "difference")
        if not isinstance(given, Mapping) or "title" not in given or "metric" not in given:
            raise InvalidValueError(f"overview: {given!r} is no column.", "Give title and metric, and mostly bench.")
        for key in given:
            if key not in known:
                raise unknown_name("setting of an overview column", str(key), known)
        column = cls(**{str(key): value for key, value in given.items()})
        if column.bench is None and column.metric != "training_seconds":
            raise InvalidValueError(f"overview column {column.title!r} names no bench.")
        return column


def overview(runs: Sequence[Run], columns: Sequence[OverviewColumn], order: Sequence[str]) -> str:
    """Return a Markdown table, methods in `order`; what was not measured is a dash, what failed says so.

    A method whose settings or models differ among `runs` has a row for each; so have runs that differ otherwise, such
    as by their seed, numbered.
    """
    readable = [run for run in runs if run.readable]
    named, models = variants(readable), {run.model for run in readable}
    rows: dict[tuple[Variant, int], dict[str, Run]] = {}
    for run in readable:
        variant = named[run.cell_id]
        turn = next(n for n in count(1) if run.bench not in rows.get((variant, n), {}))
        rows.setdefault((variant, turn), {})[run.bench] = run
    lines = [_line(["method", *(column.title for column in columns)]), "|---" * (len(columns) + 1) + "|"]
    for (variant, turn), own in sorted(rows.items(), key=lambda row: _place(order, row[0][0].method)):
        label = f"{variant.model}/{variant.label}" if len(models) > 1 else variant.label
        label += f" ({turn})" if turn > 1 else ""
        base = {run.bench: run for run in readable if run.method == "none" and run.model == variant.model}
        if variant.method in order:
            lines.append(_line([label, *(_cell(column, own, base) for column in columns)]))
    return "\n".join(lines) + "\n"


def _place(order: Sequence[str], method: str) -> int:
    return order.index(method) if method in order else len(order)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cell(column: OverviewColumn, own: Mapping[str, Run], base: Mapping[str, Run]) -> str:
    if column.metric == "training_seconds":
        return _training_seconds(next(iter(own.values())))
    run = own.get(str(column.bench))
    if run is None:
        return DASH
    if column.metric == "relative_seconds":
        return _relative_seconds(run, base.get(str(column.bench)))
    name = run.find(column.metric)
    metric = run.metric(name)
    if name is None or metric is None:
        return DASH
    text = f"{fmt.value(name, metric)} {fmt.interval(name, metric)}".strip()
    shown = run.metric(f"shown_{name}")
    if shown is not None:  # some prompts were refused: the share of all prompts is what compares with the baseline
        name, text = f"shown_{name}", f"{text} of those drawn, {fmt.value(name, shown)} of all"
    comparison = run.comparisons.get(name) if column.difference else None
    if comparison is None:
        return text
    return f"{text}; {fmt.difference(name, comparison)}, {fmt.p_value(comparison.p_value)}"


def _training_seconds(run: Run) -> str:
    """Sum the seconds of all artifacts; curves of one artifact share its hash."""
    seconds = {str(entry.get("hash")): entry.get("seconds") for entry in (run.summary.get("training") or {}).values()}
    known = [value for value in seconds.values() if value is not None]
    return f"{sum(known):.0f}" if known else DASH


def _relative_seconds(run: Run, base: Run | None) -> str:
    values = [one.metric("seconds_per_image") if one else None for one in (run, base)]
    own, other = (metric.value if metric else None for metric in values)
    return DASH if own is None or not other else f"{own / other:.2f}"
