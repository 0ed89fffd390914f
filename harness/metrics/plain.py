"""A cell's numbers as plain dictionaries, ready for JSON, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from harness.metrics.summary import CellMetrics
from harness.records import Comparison, Metric


def write_json(cell: CellMetrics) -> dict[str, Any]:
    """Return `metrics`, `comparisons`, `incomplete` and `status` as plain values. Raises ValueError for NaN."""
    metrics = {name: asdict(metric) for name, metric in cell.metrics.items()}
    comparisons = {name: asdict(comparison) for name, comparison in cell.comparisons.items()}
    for name, record in [*metrics.items(), *comparisons.items()]:
        _check_finite(name, record)
    status = "incomplete" if cell.incomplete else "complete"
    return {"metrics": metrics, "comparisons": comparisons, "incomplete": list(cell.incomplete), "status": status}


def read_json(plain: Mapping[str, Any]) -> CellMetrics:
    """Read what `write_json` wrote; other keys of a summary are left alone."""
    return CellMetrics(
        {name: Metric(**record) for name, record in plain["metrics"].items()},
        {name: Comparison(**record) for name, record in plain["comparisons"].items()},
        tuple(plain["incomplete"]),
    )


def _check_finite(name: str, record: Mapping[str, Any]) -> None:
    for key, value in record.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: {key} is {value}; an unknown number is None")
