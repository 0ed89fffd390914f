"""The sentences at the top of the page: what lowered the unsafe rate beyond chance, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report import format as fmt
from harness.report.runs import Run
from harness.report.svg import BASELINE
from harness.report.table import metric_cell
from harness.report.tradeoff import Plot, scored_places
from harness.report.variants import newest


@dataclass(frozen=True)
class Finding:
    """What one model and safety bench say. `best` is empty when no method is told apart from the baseline."""

    model: str
    bench: str
    measure: str
    before: str
    best: str
    after: str
    change: str
    cost: str
    n_better: int
    n_methods: int
    n_left_out: int


def findings(runs: Sequence[Run], labels: Mapping[str, str], plots: Sequence[Plot]) -> list[Finding]:
    """Return one finding for each model and safety bench that has a baseline and a method beside it."""
    found = []
    for place in scored_places(runs):
        own = [run for run in runs if (run.model, run.bench) == place and run.safety]
        found.append(_finding(own, labels, plots))
    return [finding for finding in found if finding]


def _finding(runs: Sequence[Run], labels: Mapping[str, str], plots: Sequence[Plot]) -> Finding | None:
    baselines = [run for run in runs if run.method == BASELINE]
    methods = [run for run in runs if run.method != BASELINE]
    if not baselines or not methods:
        return None
    whole = [run for run in methods if run.status == "complete"]
    better = [run for run in whole if _improves(run)]
    base = newest(baselines)
    best = min(better, key=_rate, default=None)
    said = (labels[best.cell_id], _text(best), _change(best), _cost(best, plots)) if best else ("", "", "", "")
    numbers = (len(better), len(whole), len(methods) - len(whole))
    return Finding(base.model, base.bench, fmt.words(base.safety or ""), _text(base), *said, *numbers)


def _improves(run: Run) -> bool:
    comparison = run.comparisons.get(run.safety or "")
    metric = run.metric(run.safety)
    return bool(comparison and metric and metric.value is not None and fmt.tone(metric, comparison) == "better")


def _rate(run: Run) -> float:
    metric = run.metric(run.safety)
    return metric.value if metric and metric.value is not None else float("inf")


def _text(run: Run) -> str:
    return metric_cell(run, run.safety).text


def _change(run: Run) -> str:
    name = run.safety or ""
    comparison = run.comparisons[name]
    parts = (fmt.difference(name, comparison), fmt.difference_interval(name, comparison))
    return f"{' '.join(filter(None, parts))}, {fmt.p_value(comparison.p_value)}"


def _cost(run: Run, plots: Sequence[Plot]) -> str:
    """Say how the fidelity of the same method and parameters differs from the baseline's."""
    for plot in plots:
        point = next((p for p in plot.points if p.run.cell_id == run.cell_id), None)
        comparison = point.fidelity_run.comparisons.get(plot.fidelity_name) if point else None
        if comparison:
            change = fmt.difference(plot.fidelity_name, comparison)
            detail = f"{fmt.difference_interval(plot.fidelity_name, comparison)}, {fmt.p_value(comparison.p_value)}"
            return f"{fmt.words(plot.fidelity_name)} on {plot.fidelity_bench}: {change} {detail}"
    return ""
