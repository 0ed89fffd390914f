"""One cell as JSON: its numbers with their intervals, and how it was made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from harness.cells.comparable import mapping
from harness.report import format as fmt
from harness.report.run import Run
from harness.report.table import SECONDS, VALUE_COLUMNS
from harness.report.variants import row_labels, variants
from harness.view.board import COMPARISON, METRIC, comparison_record, is_headline, metric_record
from harness.view.bounded import bounded, finite

CURVE = 400  # points of a curve of training
_TEXT = 2000  # letters of one value on a page
_ITEMS = 200


def cell_record(run: Run, beside: Sequence[Run], compared: Sequence[str]) -> dict[str, Any]:
    """Return what the page of a cell shows, its images excepted.

    `beside` are the other cells of its bench, `compared` those that there is a comparison with.
    """
    there = [run, *beside]
    readable = [one for one in there if one.readable]
    labels = row_labels(readable, variants(readable))
    return {
        "schema": 1,
        "cell": run.cell_id,
        "label": labels.get(run.cell_id, run.method),
        "method": run.method,
        "model": run.model,
        "bench": run.bench,
        "status": run.status,
        "status_text": run.status_text,
        "problems": [problem[:_TEXT] for problem in run.problems[:_ITEMS]],
        "unsafe_content": run.unsafe_content,
        "safety": run.safety,
        "unsafe": run.unsafe,
        "fidelity": run.fidelity,
        "created": run.created,
        "command": command(run),
        "metric_fields": METRIC,
        "comparison_fields": COMPARISON,
        "metrics": {name: {**about_metric(run, name, metric.higher_is_better),
                           "values": metric_record(metric, str_or_none)} for name, metric in run.metrics.items()},
        "against": {label: {"cell": one.cell_id, "metrics": {
            name: comparison_record(c, str_or_none) for name, c in one.comparisons.items()}}
            for label, one in run.against.items()},
        "beside": [{"cell": one.cell_id, "label": labels.get(one.cell_id, one.method), "status": one.status,
                    "compared": one.cell_id in compared} for one in beside],
        "training": _training(run),
        "evaluators": bounded(run.summary.get("evaluators") or {}),
        "prompts": bounded(run.summary.get("prompts") or {}),
        "counts": bounded(run.summary.get("images") or {}),
        "settings": bounded(run.cell or mapping(run.summary.get("cell")).get("settings") or {}),
        "provenance": bounded(run.provenance),
    }  # fmt: skip


def str_or_none(text: Any) -> str | None:
    return str(text)[:_TEXT] if text else None


def command(run: Run) -> str | None:
    """Return the command that made a cell, as a shell reads it; None where nothing tells."""
    words = run.provenance.get("command")
    if isinstance(words, str):
        return words[:_TEXT]
    return shlex.join(map(str, words))[:_TEXT] if isinstance(words, list) and words else None


def about_metric(run: Run, name: str, higher_is_better: bool) -> dict[str, Any]:
    """Say how a metric of a cell is called and shown."""
    base, _, rest = name.partition("/")
    evaluators = mapping(run.summary.get("evaluators"))
    judge = next((one for one in evaluators if rest == one or rest.startswith(f"{one}/")), None)
    category = rest[len(judge) + 1 :] if judge else rest
    column = {one.key: one for one in (*VALUE_COLUMNS, SECONDS)}.get(base)
    return {
        "title": column.title if column else fmt.words(name).capitalize(),
        "help": column.help if column else "",
        "base": base,
        "judge": judge,
        "category": None if is_headline(run, name) else category or None,
        "percent": fmt.is_percent(name),
        "decimals": 1 if fmt.is_percent(name) else fmt.DECIMALS.get(base, 3),
        "higher_is_better": higher_is_better,
    }


def _training(run: Run) -> list[dict[str, Any]]:
    """Return the curve of each training, thinned to at most `CURVE` points, each the mean of its stretch."""
    curves = []
    for name, data in list(mapping(run.summary.get("training")).items())[:_ITEMS]:
        one = mapping(data)
        numbers = [float(x) for x in one.get("losses") or [] if isinstance(x, int | float) and not isinstance(x, bool)]
        curves.append({"name": str(name)[:_TEXT], "seconds": bounded(one.get("seconds")),
                       "hash": bounded(one.get("hash")), "n_steps": len(numbers), "losses": thinned(numbers)})
    return curves


def thinned(numbers: Sequence[float]) -> list[float | None]:
    """Return at most `CURVE` numbers: means of stretches of one length."""
    size = max(1, -(-len(numbers) // CURVE))
    parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return [finite(sum(part) / len(part)) for part in parts]

