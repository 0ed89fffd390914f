"""The leaderboard as Markdown, CSV and JSON: the page's numbers, unrounded in the last two."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.records import Metric
from harness.report import comparable, followed, trainings
from harness.report.against import Against
from harness.report.run import Run
from harness.report.table import BESIDE_COLUMNS, VALUE_COLUMNS, Column, Row, baselines, row_cell, shown_columns

PLAIN = (*(column.key for column in VALUE_COLUMNS), "seconds_per_image")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SPECIAL = str.maketrans({c: "\\" + c for c in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def markdown(rows: Sequence[Row]) -> str:
    """Return the table, then the notes on its numbers and the runs that could not be read."""
    columns = shown_columns(rows)
    lines = ["# Leaderboard", "", _line([escape(column.heading) for column in columns]), _line(["---"] * len(columns))]
    notes: dict[str, int] = {}
    for row in rows:
        lines.append(_line([_cell(row, column, notes) for column in columns]))
    lines += [
        "",
        "Intervals are 95 %, by the method named with each; differences are paired with the column's baseline",
        "(same prompts, same noise). The adjusted p uses Holm's method over all methods in the results folder that are",
        "compared with that baseline by the same metric on the same model and bench.",
    ]
    if any(row.differs for row in rows):
        lines += ["Rows that are not comparable with others on their bench say so and are ranked separately."]
    if any(row.beside for row in rows):
        lines += ["Sensitivity and specificity are from labelled images; a corrected rate assumes that they hold here."]
    lines += ["", *(f"<sup>{index}</sup> {escape(note)}  " for note, index in notes.items())] if notes else []
    problems = [row for row in rows if row.run.problems]
    lines += ["", "## Runs with problems", ""] if problems else []
    lines += [f"- {escape(place(row.run))}: {escape('; '.join(row.run.problems))}" for row in problems]
    return "\n".join(lines) + "\n"


def _cell(row: Row, column: Column, notes: dict[str, int]) -> str:
    cell = row_cell(row, column)
    text = escape(" ".join(filter(None, (cell.text, *column.lines(cell)))))
    if not cell.flag or cell.tone == "missing":
        return text
    return f"{text} <sup>{notes.setdefault(cell.flag, len(notes) + 1)}</sup>"


def place(run: Run) -> str:
    return "/".join((run.model, run.method, run.bench, run.cell_id))


def escape(text: str) -> str:
    """Make text safe inside a Markdown table."""
    return " ".join(text.split()).translate(SPECIAL)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def record(row: Row) -> dict[str, Any]:
    """Return one flat record of a row: the columns of the CSV file."""
    run, images = row.run, row.run.summary.get("images") or {}
    flat: dict[str, Any] = {"method": run.method, "label": row.label, "model": run.model, "bench": run.bench}
    flat |= {"cell_id": run.cell_id, "status": run.status_text, "unsafe_metric": run.unsafe}
    flat |= _metric_fields("unsafe_rate", run.metric(run.unsafe))
    for column in BESIDE_COLUMNS:
        flat |= _metric_fields(column.key, row.beside.get(column.key))
    flat |= {"difference_metric": run.safety, **_difference("difference", run.baseline, run.safety)}
    for name in PLAIN:
        flat |= _metric_fields(name, run.metric(run.find(name)))
    for key in ("n_expected", "n_ok", "n_refused", "n_error", "n_truncated"):
        flat[key] = images.get(key)
    flat |= {**comparable.columns(run), **trainings.columns(run), "differs_in": row.differs or None}
    flat["statistics"] = run.statistics if run.readable else None
    flat |= {"created": run.created, "problems": "; ".join(run.problems)}
    return flat | followed.columns(run) | trainings.seed_columns(run)


COMPARED = ("baseline", "difference", "ci_low", "ci_high", "p_value", "p_adjusted", "n_family", "n_pairs", "before",
            "test", "ci_method", "note")  # fmt: skip


def _difference(name: str, against: Against | None, metric: str | None) -> dict[str, Any]:
    """Return the difference to one baseline as columns of this name; `before` is the baseline's value of the pairs."""
    comparison = against.comparisons.get(metric) if against and metric else None
    columns = {"baseline": against.label if against and comparison else None}
    columns |= {key: _known(getattr(comparison, key, None)) for key in COMPARED if key != "baseline"}
    return {name if key == "difference" else f"{name}_{key}": columns[key] for key in COMPARED}


def _other_baselines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return, for each row, its difference to every baseline in columns of that name, where there are several."""
    labels = baselines([row.run for row in rows])
    if len(labels) < 2:
        return [{} for _ in rows]
    return [
        {key: value for label in labels for key, value in
         _difference(f"against {label}", row.run.against.get(label), row.run.safety).items()
         if key != f"against {label}_baseline"}
        for row in rows
    ]  # fmt: skip


def _metric_fields(name: str, metric: Metric | None) -> dict[str, Any]:
    keys = ["value", "ci_low", "ci_high", "ci_method", "n", "n_unknown", "note"]
    keys += ["worst_low", "worst_high"] if name == "unsafe_rate" else []
    return {name if key == "value" else f"{name}_{key}": getattr(metric, key, None) for key in keys}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def csv_text(rows: Sequence[Row]) -> str:
    """Return the flat records; an empty field is a missing number."""
    records = [record(row) | more for row, more in zip(rows, _other_baselines(rows), strict=True)]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: no_formula(value) for key, value in one.items()} for one in records])
    return out.getvalue()


def no_formula(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would read as a formula."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ")[:1] in _FORMULA and value.strip() else value


def _compared(against: Against) -> dict[str, Any]:
    metrics = {k: {f: _known(v) for f, v in asdict(c).items()} for k, c in against.comparisons.items()}
    return {"cell": against.cell_id, "metrics": metrics,
            "distances": {name: asdict(metric) for name, metric in against.distances.items()}}


def json_text(rows: Sequence[Row]) -> str:
    """Return every row with all its metrics, comparisons, evaluators and provenance."""
    runs = [
        record(row)
        | {
            "metrics": {name: asdict(metric) for name, metric in row.run.metrics.items()},
            "trainings_of": trainings.records(row.run),
            "judge": {name: asdict(metric) for name, metric in row.beside.items()},
            "comparisons": {label: _compared(against) for label, against in row.run.against.items()},
            "evaluators": row.run.summary.get("evaluators") or {},
            "settings": (row.run.summary.get("cell") or {}).get("settings") or {},
            "provenance": dict(row.run.provenance),
            "seeds_of": trainings.seed_record(row.run),
        }
        for row in rows
    ]
    return json.dumps({"schema": 2, "runs": runs}, indent=1, ensure_ascii=False, default=str) + "\n"
