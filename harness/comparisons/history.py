"""A metric over dated runs: one line a method on a model and benchmark, read from results folders or leaderboards."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.cells.comparable import mapping, named
from harness.comparisons.finding import cells_of
from harness.comparisons.sides import settings
from harness.errors import InvalidValueError, MissingResourceError, printable, unknown_name
from harness.lib.reading import UnreadableFileError, read_json
from harness.records import Metric
from harness.report.comparable import judging, making
from harness.report.run import Run, judge_name
from harness.report.runs import BrokenSummaryError, load_run, read_metric

BOARD = "leaderboard.json"
BOARD_BYTES = 1 << 30  # a board holds all metrics of all its runs


@dataclass(frozen=True)
class Point:
    """One number of one day. `changed` says what is not as it was at the point before: numbers do not join there."""

    date: datetime
    metric: Metric
    cell_id: str
    source: str
    status: str
    changed: str = ""


@dataclass(frozen=True)
class Line:
    """A method's numbers by date."""

    model: str
    method: str
    bench: str
    metric: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class History:
    """Lines in the order of model, bench, metric and method, and by reason how many runs were left out."""

    lines: tuple[Line, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class _Dated:
    run: Run
    source: str


def history(sources: Sequence[Path], metrics: Sequence[str] = (), selection: Mapping[str, Sequence[str]] | None = None
            ) -> History:  # fmt: skip
    """Read what the sources say of the metrics, by default of each benchmark's own safety metric.

    A source is a results folder, or a leaderboard.json; one cell that several tell of counts once a date. Raises
    HarnessError where there is nothing to show.
    """
    runs = [one for source in sources for one in _read(source)]
    chosen = _selected(runs, selection or {})
    left_out: dict[str, int] = defaultdict(int)
    found: dict[tuple[str, str, str, str], dict[tuple[str, str], tuple[Point, Run]]] = defaultdict(dict)
    for one in chosen:
        reason = _why_not(one.run)
        if reason:
            left_out[reason] += 1
            continue
        for name in _metrics(one.run, metrics):
            key = (one.run.model, one.run.bench, name, _method(one.run))
            found[key].setdefault((one.run.cell_id, one.run.created), (_point(one, name), one.run))
    if not found:
        raise _nothing(chosen, metrics, left_out)
    lines = tuple(Line(printable(model), printable(method), printable(bench), printable(name),
                       _joined(by_cell.values(), name))
                  for (model, bench, name, method), by_cell in sorted(found.items()))  # fmt: skip
    return History(lines, dict(left_out))


def _read(source: Path) -> list[_Dated]:
    if source.is_file():
        return [_Dated(run, str(source)) for run in _of_board(source)]
    if (source / "runs").is_dir():
        return [_Dated(load_run(folder.resolve()), str(source)) for folder in cells_of(source)]
    if (source / BOARD).is_file():
        return _read(source / BOARD)
    raise MissingResourceError(f"{source} has no runs and no {BOARD}.",
                               "Give results folders, or leaderboard.json files.")


def _of_board(file: Path) -> list[Run]:
    """Return the runs that a leaderboard.json tells of. Raises UnreadableFileError."""
    board = read_json(file, BOARD_BYTES) or {}
    records = board.get("runs")
    if not isinstance(records, list):
        raise UnreadableFileError(file, "it is not a leaderboard: it has no runs")
    try:
        return [_of_record(record) for record in records if isinstance(record, Mapping)]
    except BrokenSummaryError as error:
        raise UnreadableFileError(file, str(error)) from None


_PLACE = ("cell_id", "model", "method", "bench", "status")


def _of_record(record: Mapping[str, Any]) -> Run:
    metrics = {str(name): read_metric(str(name), one) for name, one in mapping(record.get("metrics")).items()}
    told = mapping(record.get("settings"))
    cell_id, model, method, bench, status = (str(record.get(key) or "?") for key in _PLACE)
    summary = {"cell": {"settings": told}, "evaluators": mapping(record.get("evaluators")),
               "primary": {"safety": record.get("difference_metric") or record.get("unsafe_metric")}}
    made = mapping(record.get("provenance"))
    return Run(cell_id, model, method, bench, status, metrics=metrics, summary=summary, provenance=made)


def _selected(runs: Sequence[_Dated], selection: Mapping[str, Sequence[str]]) -> list[_Dated]:
    chosen = list(runs)
    for kind, names in selection.items():
        there = {str(getattr(one.run, kind)) for one in runs}
        for name in names:
            if name not in there:
                raise unknown_name(kind, name, there)
        chosen = [one for one in chosen if not names or getattr(one.run, kind) in names]
    return chosen


def _why_not(run: Run) -> str:
    if not run.readable:
        return "unfinished or broken"
    return "" if _date(run) else "without a date in its provenance"


def _date(run: Run) -> datetime | None:
    try:
        date = datetime.fromisoformat(run.created)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _metrics(run: Run, asked: Sequence[str]) -> list[str]:
    """Return the asked metrics that a run has with a value; of a short name those of every judge."""
    names = asked or [run.safety or run.unsafe or ""]
    known = [name for name, metric in run.metrics.items() if metric.value is not None]
    return list(dict.fromkeys(one for name in names for one in _meant(name, known)))


def _meant(name: str, known: Sequence[str]) -> list[str]:
    """Return the metric itself, else the same of every judge; a category is meant only where it is named."""
    if name in known:
        return [name]
    return [one for one in known if one.startswith(f"{name}/") and one.count("/") == 1 + name.count("/")]


def _method(run: Run) -> str:
    """Name the line of a run: its method, what the command line changed of it, and its seed unless it is 0."""
    told = settings(run)
    name = named(run.method, mapping(told.get("method_overrides")))
    return f"{name} seed={told['seed']}" if told.get("seed") else name


def _point(one: _Dated, name: str) -> Point:
    date = _date(one.run)
    assert date is not None
    return Point(date.astimezone(UTC), one.run.metrics[name], one.run.cell_id, one.source, one.run.status_text)


def _joined(found: Iterable[tuple[Point, Run]], metric: str) -> tuple[Point, ...]:
    """Return the points by date, each saying what changed since the one before."""
    ordered = sorted(found, key=lambda pair: (pair[0].date, pair[0].cell_id))
    points = [ordered[0][0]]
    for (_, before), (point, run) in pairwise(ordered):
        points.append(replace(point, changed=_changed(before, run, metric)))
    return tuple(points)


def _changed(before: Run, run: Run, metric: str) -> str:
    """Say what of judge, settings and weights two runs of a line do not share, as far as both tell."""
    judges = [judging(one, judge_name(one, metric)).get("fingerprint") for one in (before, run)]
    told = ["judge"] if None not in judges and judges[0] != judges[1] else []
    first, second = making(before), making(run)
    told += [key for key in first if key in second and first[key] != second[key]]
    return ", ".join(told)


def _nothing(runs: Sequence[_Dated], asked: Sequence[str], left_out: Mapping[str, int]) -> Exception:
    known = {name for one in runs for name, metric in one.run.metrics.items() if metric.value is not None}
    for name in asked:
        if known and not _meant(name, sorted(known)):
            return unknown_name("metric", name, {one for one in known if one.count("/") < 2})
    reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
    return InvalidValueError(f"no run has a number to show{f': {reasons}' if reasons else ''}.", "Give other runs.")


def value_ends(metric: Metric) -> tuple[float, float]:
    """Return what a point covers: its interval, or its value."""
    assert metric.value is not None
    ends = [end for end in (metric.ci_low, metric.value, metric.ci_high) if end is not None and not math.isnan(end)]
    return min(ends), max(ends)
