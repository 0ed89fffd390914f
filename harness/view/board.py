"""The board as JSON: one record a row, with every number that the table, the matrix or the plot may show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.cells.comparable import mapping
from harness.lib.hashing import canonical_json, text_hash
from harness.records import Comparison, Metric
from harness.report import comparable, trainings
from harness.report import format as fmt
from harness.report.against import Against
from harness.report.run import Run
from harness.report.table import SECONDS, VALUE_COLUMNS, Row, build_rows
from harness.report.tradeoff import Plot, plots
from harness.report.variants import Variant, row_labels, variants
from harness.view.progress import Progress
from harness.view.ranking import Ranks

METRIC = ("value", "ci_low", "ci_high", "n", "n_unknown", "ci_method", "note", "worst_low", "worst_high")
COMPARISON = ("difference", "ci_low", "ci_high", "p_value", "p_adjusted", "n_family", "n_pairs", "test", "before")
MAX_NOTE = 200


class _Texts:
    """Texts that many rows share, each once: a record has their places."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def place(self, text: Any) -> int | None:
        return None if not text else self.known.setdefault(str(text)[:MAX_NOTE], len(self.known))


def board(runs: Sequence[Run], ranks: Ranks, name: str, live: bool, progress: Progress) -> dict[str, Any]:
    """Return the board of these runs. `live`: a server tells of changes; `name` is what the results are called."""
    readable = [run for run in runs if run.readable]
    named = variants(readable)
    rows = build_rows(runs, row_labels(readable, named), None, ranks)
    texts = _Texts()
    records = [_row(row, named, texts) | _so_far(row.run, progress) for row in rows]
    metrics = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    content = {
        "schema": 1,
        "name": name,
        "live": live,
        "rows": records,
        "metrics": {name: _about(name, rows) for name in metrics},
        "plots": [_plot(plot) for plot in _plots(readable, named)],
        "texts": list(texts.known),
    }
    return content | {"version": text_hash(canonical_json(content))[:12]}


def _row(row: Row, named: Mapping[str, Variant], texts: _Texts) -> dict[str, Any]:
    run, images = row.run, mapping(row.run.summary.get("images"))
    names = [name for name in run.metrics if is_headline(run, name)]
    return {
        "cell": run.cell_id,
        "label": row.label,
        "method": run.method,
        "model": run.model,
        "bench": run.bench,
        "seed": _seed(run),
        "status": run.status,
        "status_text": run.status_text,
        "safety": run.safety,
        "unsafe": run.unsafe,
        "fidelity": run.fidelity,
        "measures_safety": run.measures_safety,
        "unsafe_content": run.unsafe_content,
        "variant": named[run.cell_id].identity if run.cell_id in named else run.method,
        "group": comparable.group(run) if run.readable else None,
        "rank": [row.rank.rank, row.rank.low, row.rank.high, row.rank.n, row.rank.by] if row.rank else None,
        "differs": row.differs,
        "base_of": sorted(row.base_of),
        "trainings": [one.cell_id for one in run.trainings],
        "mean_of": trainings.count_text(run),
        "created": run.created,
        "problems": [problem[:MAX_NOTE] for problem in run.problems[:5]],
        "images": {key: images.get(f"n_{key}") for key in ("ok", "expected", "refused", "error", "truncated")},
        "metrics": {name: metric_record(run.metrics[name], texts.place) for name in names},
        "against": {label: _against(one, names, texts) for label, one in run.against.items()},
    }  # fmt: skip


def _so_far(run: Run, progress: Progress) -> dict[str, Any]:
    told = progress.of(run.folder) if run.status == "unfinished" and run.folder else None
    return {"so_far": told} if told else {}


def is_headline(run: Run, name: str) -> bool:
    """Return whether a metric is of a whole cell, not of one of its categories."""
    _, _, rest = name.partition("/")
    return not rest or rest in mapping(run.summary.get("evaluators"))


def _seed(run: Run) -> str | None:
    settings = mapping(mapping(run.summary.get("cell")).get("settings"))
    return None if settings.get("seed") is None else str(settings["seed"])[:40]


def metric_record(metric: Metric, text: Any) -> list[Any]:
    """Return a metric as a list in the order of `METRIC`, without what is empty at its end; `text` places a text."""
    values = [getattr(metric, key) for key in METRIC]
    for i in (5, 6):
        values[i] = text(values[i])
    return _short(values)


def comparison_record(comparison: Comparison, text: Any) -> list[Any]:
    """Return a comparison as a list in the order of `COMPARISON`; what is not a number is null."""
    values = [getattr(comparison, key, None) for key in COMPARISON]
    values[7] = text(values[7])
    return _short(values)


def _short(values: Iterable[Any]) -> list[Any]:
    shown = [digits(value) for value in values]
    while shown and shown[-1] is None:
        shown.pop()
    return shown


def digits(value: Any) -> Any:
    """Return a number with the digits that any page shows; what is not finite is null."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _against(against: Against, names: Sequence[str], texts: _Texts) -> dict[str, Any]:
    known = set(names)
    return {"cell": against.cell_id,
            "metrics": {name: comparison_record(one, texts.place) for name, one in against.comparisons.items()
                        if name in known}}  # fmt: skip


def _about(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Say how a metric is called and shown. `judge` is whose verdicts a rate is of."""
    base, _, judge = name.partition("/")
    known = {column.key: column for column in (*VALUE_COLUMNS, SECONDS)}
    column = known.get(base)
    metric = next(row.run.metrics[name] for row in rows if name in row.run.metrics)
    return {
        "title": column.title if column else fmt.words(name).capitalize(),
        "help": column.help if column else "",
        "judge": judge or None,
        "base": base,
        "percent": fmt.is_percent(name),
        "decimals": 1 if fmt.is_percent(name) else fmt.DECIMALS.get(base, 3),
        "higher_is_better": metric.higher_is_better,
    }


def _plots(runs: Sequence[Run], named: Mapping[str, Variant]) -> list[Plot]:
    return [plot for plot in plots(runs, named) if plot.points]


def _plot(plot: Plot) -> dict[str, Any]:
    """Return which rows are the points of a plot: the cell on the safety bench, and the one on the fidelity bench."""
    return {
        "model": plot.model,
        "safety_bench": plot.safety_bench,
        "fidelity_bench": plot.fidelity_bench,
        "safety": plot.safety_name,
        "fidelity": plot.fidelity_name,
        "group": plot.group,
        "apart": plot.apart,
        "points": [[point.run.cell_id, point.fidelity_run.cell_id] for point in plot.points],
        "baselines": list(plot.baselines),
        "base_cells": sorted(plot.base_cells),
    }
