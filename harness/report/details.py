"""What opens behind a number, as compact data: the page builds a dialog from it when one is asked for.

Texts and parts of configurations that runs share are stored once and referred to by number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.records import Comparison, Metric
from harness.report import format as fmt
from harness.report.origin import command, judge, origin
from harness.report.run import Run
from harness.report.table import Row

WORDS = {True: "higher is better", False: "lower is better"}


class _Shared:
    """A list of distinct values; `of` returns the place of one."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def of(self, value: Any) -> int:
        key = json.dumps(value, sort_keys=True, default=str)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def details(rows: Sequence[Row], palette: Mapping[str, str]) -> dict[str, Any]:
    """Return what dialogs show: `runs` by cell id, whose numbers in lists stand for entries of `shared`."""
    shared = _Shared()
    return {"runs": {row.run.cell_id: _run(row, palette, shared) for row in rows}, "shared": shared.values}


def embedded(data: Any) -> str:
    """Return data as JSON that may stand in a page: nothing in it ends a script element or begins a comment."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _run(row: Row, palette: Mapping[str, str], shared: _Shared) -> dict[str, Any]:
    run, metrics = row.run, row.metrics
    return {
        "label": row.label, "colour": palette[run.method], "place": f"{run.model} on {run.bench}",
        "status": [run.status, run.status_text], "differs": row.differs, "problems": list(run.problems),
        "first": next((name for name in (run.safety, run.unsafe, run.fidelity) if name in metrics), None),
        "numbers": [_number(run, name, metric, shared) for name, metric in metrics.items()],
        "command": command(run), "origin": [[shared.of(title), shared.of(text)] for title, text in origin(run)],
        "folds": [[title, _parts(data, shared)] for title, data in _folds(run) if data],
    }  # fmt: skip


def _number(run: Run, name: str, metric: Metric, shared: _Shared) -> list[Any]:
    missing = metric.value is None and metric.note and not metric.n_unknown
    judged = judge(run, name)
    compared = [_compared(name, label, against.comparisons[name], shared) for label, against in run.against.items()
                if name in against.comparisons]  # fmt: skip
    title = f"{fmt.by_whom(name)}, {WORDS[metric.higher_is_better]}"
    return [shared.of(name), shared.of(title), "n/a" if missing else fmt.value(name, metric),
            fmt.interval_by(name, metric), fmt.worst_case(name, metric), metric.n, metric.n_unknown,
            shared.of(metric.note or ""), shared.of(judged), compared]  # fmt: skip


def _compared(name: str, label: str, comparison: Comparison, shared: _Shared) -> list[Any]:
    family = getattr(comparison, "n_family", 0)
    rest = [f"{comparison.n_pairs:,} pairs", comparison.test]
    rest += [f"{fmt.number(name, comparison.before)} before"] if comparison.before is not None else []
    p = fmt.p_values(comparison) + (f" of {family}" if family else "")
    return [shared.of(label), fmt.difference(name, comparison), fmt.difference_interval(name, comparison), p,
            shared.of(", ".join(rest))]  # fmt: skip


def _folds(run: Run) -> list[tuple[str, Any]]:
    summary = run.summary
    settings = run.cell or (summary.get("cell") or {}).get("settings")
    return [("Evaluators", summary.get("evaluators")), ("Prompts", summary.get("prompts")),
            ("Images", summary.get("images")), ("Settings", settings), ("Provenance", run.provenance)]  # fmt: skip


def _parts(data: Mapping[str, Any], shared: _Shared) -> list[list[Any]]:
    return [[shared.of(str(key)), shared.of(value)] for key, value in data.items()]
