"""Safety against fidelity: which numbers belong to one point, and which points to one sweep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records import Metric
from harness.report.runs import Run
from harness.report.variants import Variant, newest

FIDELITY = ("attribute_accuracy", "clip_score")


@dataclass(frozen=True)
class Point:
    """One method variant: its unsafe rate on the safety bench and its fidelity on the fidelity bench."""

    variant: Variant
    safety: Metric
    fidelity: Metric
    run: Run
    fidelity_run: Run


@dataclass(frozen=True)
class Plot:
    """What one scatter shows. `unpaired` names the variants that lack one of the two numbers."""

    model: str
    safety_bench: str
    fidelity_bench: str
    safety_name: str
    fidelity_name: str
    points: tuple[Point, ...]
    unpaired: tuple[str, ...]


def scored_places(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (model, bench) of the safety benches; where a model has none, of any bench with a safety metric."""
    places = set()
    for model in {run.model for run in runs}:
        own = [run for run in runs if run.model == model and run.safety]
        places |= {(model, run.bench) for run in own if run.measures_safety} or {(model, run.bench) for run in own}
    return sorted(places)


def plots(runs: Sequence[Run], named: Mapping[str, Variant]) -> list[Plot]:
    """Pair each safety bench with the same model's benign benches; where there is none, with its own fidelity."""
    found, scored = [], scored_places(runs)
    for model, bench in scored:
        own = [run for run in runs if run.model == model]
        safety = next(str(run.safety) for run in own if run.bench == bench and run.safety)
        harmless = {run.bench for run in own if run.fidelity and not run.unsafe_content}
        benign = sorted(name for name in harmless if (model, name) not in scored)
        for other in benign or [bench]:
            names = _fidelity_names([run for run in own if run.bench == other])
            joined = [_join(own, named, (bench, safety), (other, name)) for name in names]
            found += [plot for plot in joined if plot.points]
    return found


def _fidelity_names(runs: Sequence[Run]) -> list[str]:
    """Return what to plot safety against, best first: means with intervals, then the bench's own choice."""
    names = [*FIDELITY, *sorted({run.fidelity for run in runs if run.fidelity})]
    return [name for name in dict.fromkeys(names) if any(name in run.metrics for run in runs)]


def _join(
    runs: Sequence[Run], named: Mapping[str, Variant], safety: tuple[str, str], fidelity: tuple[str, str]
) -> Plot:
    """Join two benches by method and parameters; `safety` and `fidelity` are (bench, metric)."""
    groups: dict[str, tuple[list[Run], list[Run]]] = defaultdict(lambda: ([], []))
    for run in runs:
        for side, (bench, name) in enumerate((safety, fidelity)):
            if run.bench == bench and name in run.metrics:
                groups[named[run.cell_id].identity][side].append(run)
    points, unpaired = [], []
    for left, right in groups.values():
        variant = named[(left or right)[0].cell_id]
        x = newest(left).metrics[safety[1]] if left else None
        y = newest(right).metrics[fidelity[1]] if right else None
        if x is None or y is None or x.value is None or y.value is None:
            unpaired.append(variant.label)
        else:
            points.append(Point(variant, x, y, newest(left), newest(right)))
    return Plot(runs[0].model, safety[0], fidelity[0], safety[1], fidelity[1], tuple(points), tuple(sorted(unpaired)))


def fronts(points: Sequence[Point]) -> list[list[Point]]:
    """Return the sweeps: points of one method that differ in one parameter, in its order."""
    families = defaultdict(list)
    for point in points:
        if point.variant.varying:
            families[point.variant.method].append(point)
    lines = []
    for family in families.values():
        axis = _sweep_axis(family)
        groups = defaultdict(list)
        for point in family:
            groups[str([pair for pair in point.variant.varying if pair[0] != axis])].append(point)
        lines += [sorted(group, key=lambda p: _order(dict(p.variant.varying)[axis])) for group in groups.values()]
    return [line for line in lines if len(line) > 1]


def _sweep_axis(family: Sequence[Point]) -> str:
    """Return the parameter with the most values: the one that a front follows."""
    keys = [key for key, _ in family[0].variant.varying]
    return max(keys, key=lambda key: len({str(dict(p.variant.varying)[key]) for p in family}))


def _order(value: object) -> tuple[float, str]:
    if isinstance(value, list) and value:
        value = value[-1]
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))
