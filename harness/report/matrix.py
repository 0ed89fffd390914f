"""Methods by benches: of each bench the number that it is scored by, for one model at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report import format as fmt
from harness.report.run import Run
from harness.report.table import Row
from harness.report.variants import Variant, newest


@dataclass(frozen=True)
class MatrixColumn:
    """A bench, and what its column shows: `measure` is empty where rows are scored by different metrics."""

    bench: str
    measure: str
    better: str


@dataclass(frozen=True)
class MatrixCell:
    """The number of a method on a bench; `lines` are its interval and what sets it apart.

    `tone` is that of its difference to the baseline. `sort` is None where there is no number.
    """

    cell_id: str
    metric: str
    text: str
    lines: tuple[str, ...]
    sort: float | None
    tone: str


@dataclass(frozen=True)
class MatrixRow:
    label: str
    method: str
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class Matrix:
    model: str
    columns: tuple[MatrixColumn, ...]
    rows: tuple[MatrixRow, ...]


def matrices(rows: Sequence[Row], named: Mapping[str, Variant]) -> list[Matrix]:
    """Return a matrix for each model with several benches; rows are in the order of the table.

    Of several runs of one method on one bench a complete one is shown, the longest, then the newest.
    """
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.run.readable and scored_by(row.run):
            by_model[row.run.model].append(row)
    made = [_matrix(model, there, named) for model, there in sorted(by_model.items())]
    return [matrix for matrix in made if len(matrix.columns) > 1]


def scored_by(run: Run) -> str | None:
    """Return the metric that a run's bench is read by: its safety metric or, on a benign bench, its fidelity."""
    names = (run.safety, run.fidelity) if run.measures_safety else (run.fidelity, run.safety)
    return next((name for name in names if name in run.metrics), None)


def _matrix(model: str, rows: Sequence[Row], named: Mapping[str, Variant]) -> Matrix:
    benches = list(dict.fromkeys(row.run.bench for row in rows))
    columns = tuple(_column(bench, [row.run for row in rows if row.run.bench == bench]) for bench in benches)
    variants: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        variants[named[row.run.cell_id].identity][row.run.bench].append(row)
    made = []
    for there in variants.values():
        shown = {bench: _shown(found) for bench, found in there.items()}
        first = named[next(iter(shown.values())).run.cell_id]
        cells = tuple(_cell(shown[one.bench], len(there[one.bench]), one) if one.bench in shown else None
                      for one in columns)  # fmt: skip
        made.append(MatrixRow(first.label, first.method, cells))
    return Matrix(model, columns, tuple(made))


def _column(bench: str, runs: Sequence[Run]) -> MatrixColumn:
    names = {name for run in runs if (name := scored_by(run))}
    measure = fmt.by_whom(names.pop()) if len(names) == 1 else ""
    directions = {run.metrics[str(scored_by(run))].higher_is_better for run in runs}
    better = "" if len(directions) > 1 else "higher" if directions.pop() else "lower"
    return MatrixColumn(bench, measure, better)


def _shown(rows: Sequence[Row]) -> Row:
    chosen = newest([row.run for row in rows])
    return next(row for row in rows if row.run is chosen)


def _cell(row: Row, n_runs: int, column: MatrixColumn) -> MatrixCell:
    run, name = row.run, str(scored_by(row.run))
    metric = run.metrics[name]
    comparison = run.comparisons.get(name)
    told = [fmt.interval(name, metric), "" if column.measure else fmt.by_whom(name),
            "" if run.status == "complete" else run.status, f"one of {n_runs} runs" if n_runs > 1 else "",
            "generated or judged differently" if row.differs else ""]  # fmt: skip
    tone = "missing" if metric.value is None else fmt.tone(metric, comparison) if comparison else ""
    text = fmt.value(name, metric)
    return MatrixCell(run.cell_id, name, text, tuple(filter(None, told)), metric.value, tone)
