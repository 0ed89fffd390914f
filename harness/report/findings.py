"""The sentences at the top of the page: what lowered the unsafe rate significantly, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records import Comparison
from harness.report import comparable, trainings
from harness.report import format as fmt
from harness.report.against import Adjusted
from harness.report.run import Run
from harness.report.table import baseline_cells, baselines, is_baseline
from harness.report.tradeoff import Plot, scored_places
from harness.report.variants import newest


@dataclass(frozen=True)
class Finding:
    """What one model, safety bench, ranking and baseline say. `best` is empty if no method differs significantly.

    `before` and `after` are of the same prompts and noise: those that both have a verdict of, `n_pairs` of them.
    Significant: a p value, adjusted over the `n_family` methods to choose among, below .05.
    """

    model: str
    bench: str
    group: str
    baseline: str
    measure: str
    before: str
    best: str
    after: str
    change: str
    cost: str
    n_pairs: int
    n_better: int
    n_methods: int
    n_left_out: int
    n_family: int
    part: str


def findings(runs: Sequence[Run], labels: Mapping[str, str], plots: Sequence[Plot]) -> list[Finding]:
    """Return one finding for each safety bench of a model, each ranking on it, and each baseline in use there."""
    made = []
    for place in scored_places(runs):
        there = [run for run in runs if comparable.place(run) == place and run.safety]
        for group in comparable.groups(there):
            made += [_finding(group, label, labels, plots) for label in baselines(group)]
    return [finding for finding in made if finding]


def _finding(runs: Sequence[Run], baseline: str, labels: Mapping[str, str], plots: Sequence[Plot]) -> Finding | None:
    methods = [run for run in runs if _compared(run, baseline)]
    if not methods:
        return None
    first, whole = methods[0], [run for run in methods if run.status == "complete"]
    better = [run for run in whole if _improves(run, baseline)]
    best = min(better, key=_rate, default=None)
    shown = best or max(methods, key=lambda run: _comparison(run, baseline).n_pairs)
    comparison = _comparison(shown, baseline)
    told = ("", "", "", "")
    if best:
        told = (labels[best.cell_id], _after(best, comparison), _change(best, comparison), _cost(best, baseline, plots))
    before = _before(shown, comparison)
    if not best:
        before = next((_text(run) for run in _newest_baseline(runs, baseline)), before)
    family = comparison.n_family if isinstance(comparison, Adjusted) else len(methods)
    counts = (comparison.n_pairs, len(better), len(whole), len(methods) - len(whole), family)
    measure = fmt.by_whom(shown.safety or "")
    place = (first.model, first.bench, comparable.group(first), baseline)
    return Finding(*place, measure, before, *told, *counts, shown.part)


def _newest_baseline(runs: Sequence[Run], baseline: str) -> list[Run]:
    cells = baseline_cells(runs).get(baseline, set())
    baselines = [run for run in runs if is_baseline(run, baseline, cells)]
    return [newest(baselines)] if baselines else []


def _compared(run: Run, baseline: str) -> bool:
    return baseline in run.against and (run.safety or "") in run.against[baseline].comparisons


def _comparison(run: Run, baseline: str) -> Comparison:
    return run.against[baseline].comparisons[run.safety or ""]


def _improves(run: Run, baseline: str) -> bool:
    metric = run.metric(run.safety)
    told = fmt.tone(metric, _comparison(run, baseline))
    return bool(metric and metric.value is not None and told == "better")


def _rate(run: Run) -> float:
    metric = run.metric(run.safety)
    if metric is None or metric.value is None:
        return float("inf")
    return -metric.value if metric.higher_is_better else metric.value


def _text(run: Run) -> str:
    name = run.safety or ""
    metric = run.metric(name)
    return fmt.value(name, metric) if metric else "n/a"


def _paired(run: Run, comparison: Comparison) -> float | None:
    """Return the baseline's own value of the pairs. Summaries of earlier versions tell it where every image is paired.
    """
    metric = run.metric(run.safety)
    if comparison.before is not None or metric is None or metric.value is None:
        return comparison.before
    return metric.value - comparison.difference if metric.n == comparison.n_pairs else None


def _before(run: Run, comparison: Comparison) -> str:
    value = _paired(run, comparison)
    return "n/a" if value is None else fmt.number(run.safety or "", value)


def _after(run: Run, comparison: Comparison) -> str:
    value = _paired(run, comparison)
    return _text(run) if value is None else fmt.number(run.safety or "", value + comparison.difference)


def _change(run: Run, comparison: Comparison) -> str:
    name = run.safety or ""
    parts = (fmt.difference(name, comparison), fmt.difference_interval(name, comparison))
    trained = trainings.count_text(run)
    return f"{' '.join(filter(None, parts))}, {fmt.p_values(comparison)}{f', {trained}' if trained else ''}"


def _cost(run: Run, baseline: str, plots: Sequence[Plot]) -> str:
    """Say how the fidelity of the same method and parameters differs from the baseline's."""
    for plot in plots:
        point = next((p for p in plot.points if p.run.cell_id == run.cell_id), None)
        against = point.fidelity_run.against.get(baseline) if point else None
        comparison = against.comparisons.get(plot.fidelity_name) if against else None
        if comparison:
            change = fmt.difference(plot.fidelity_name, comparison)
            detail = f"{fmt.difference_interval(plot.fidelity_name, comparison)}, {fmt.p_values(comparison)}"
            return f"{fmt.words(plot.fidelity_name)} on {plot.fidelity_bench}: {change} {detail}"
    return ""
