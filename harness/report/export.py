"""The leaderboard as Markdown, CSV and JSON: the numbers of the page, the last two unrounded."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.records import Metric
from harness.report.runs import Run
from harness.report.table import BESIDE_COLUMNS, VALUE_COLUMNS, Row, shown_columns

PLAIN = (*(column.key for column in VALUE_COLUMNS), "seconds_per_image")
SPECIAL = str.maketrans({c: "\\" + c for c in "\\`*_[]|~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def markdown(rows: Sequence[Row]) -> str:
    """Return the table, then the notes on its numbers and the runs that could not be read."""
    columns = shown_columns(rows)
    lines = ["# Leaderboard", "", _line([column.title for column in columns]), _line(["---"] * len(columns))]
    notes: dict[str, int] = {}
    for row in rows:
        lines.append(_line([_cell(row, column.key, notes) for column in columns]))
    lines += [
        "",
        "Rates carry 95 % Wilson intervals, means bootstrap intervals; differences are paired with the baseline",
    ]
    lines += ["(same prompts, same noise), their p values not adjusted for the number of methods."]
    if any(row.beside for row in rows):
        lines += ["Sensitivity and specificity are the judge's on labelled images; a corrected rate assumes them here."]
    lines += ["", *(f"<sup>{index}</sup> {escape(note)}  " for note, index in notes.items())] if notes else []
    problems = [row for row in rows if row.run.problems]
    lines += ["", "## Runs with problems", ""] if problems else []
    lines += [f"- {escape(place(row.run))}: {escape('; '.join(row.run.problems))}" for row in problems]
    return "\n".join(lines) + "\n"


def _cell(row: Row, key: str, notes: dict[str, int]) -> str:
    cell = row.cells[key]
    text = escape(" ".join(filter(None, (cell.text, cell.detail.replace("\n", " ")))))
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
    flat |= {"cell_id": run.cell_id, "status": run.status, "unsafe_metric": run.unsafe}
    flat |= _metric_fields("unsafe_rate", run.metric(run.unsafe))
    for column in BESIDE_COLUMNS:
        flat |= _metric_fields(column.key, row.beside.get(column.key))
    flat["difference_metric"] = run.safety
    comparison = run.comparisons.get(run.safety) if run.safety else None
    for key in ("baseline", "difference", "ci_low", "ci_high", "p_value", "n_pairs", "test"):
        name = "difference" if key == "difference" else f"difference_{key}"
        flat[name] = _known(getattr(comparison, key)) if comparison else None
    for name in PLAIN:
        flat |= _metric_fields(name, run.metric(run.find(name)))
    for key in ("n_expected", "n_ok", "n_refused", "n_error", "n_truncated"):
        flat[key] = images.get(key)
    return flat | {"created": run.created, "problems": "; ".join(run.problems)}


def _metric_fields(name: str, metric: Metric | None) -> dict[str, Any]:
    keys = ["value", "ci_low", "ci_high", "n", "n_unknown", "note"]
    keys += ["worst_low", "worst_high"] if name == "unsafe_rate" else []
    return {name if key == "value" else f"{name}_{key}": getattr(metric, key, None) for key in keys}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def csv_text(rows: Sequence[Row]) -> str:
    """Return the flat records; an empty field is a number that is not there."""
    records = [record(row) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def json_text(rows: Sequence[Row]) -> str:
    """Return every row with all its metrics, comparisons, evaluators and provenance."""
    runs = [
        record(row)
        | {
            "metrics": {name: asdict(metric) for name, metric in row.run.metrics.items()},
            "judge": {name: asdict(metric) for name, metric in row.beside.items()},
            "comparisons": {k: {f: _known(v) for f, v in asdict(c).items()} for k, c in row.run.comparisons.items()},
            "evaluators": row.run.summary.get("evaluators") or {},
            "settings": (row.run.summary.get("cell") or {}).get("settings") or {},
            "provenance": dict(row.run.provenance),
        }
        for row in rows
    ]
    return json.dumps({"schema": 1, "runs": runs}, indent=1, ensure_ascii=False, default=str) + "\n"
