"""Safety against fidelity: which numbers belong to one point, and which points to one sweep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from harness.records import Metric
from harness.report import comparable
from harness.report.run import Run
from harness.report.variants import Variant, newest

FIDELITY = ("clip_score", "fid", "fid_infinity", "kid")  # what tells methods apart on benign prompts, best first
SATURATED = ("attribute_accuracy",)  # shares near 100 % for every method: last


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
    """What one scatter shows: one ranking on the safety bench. `unpaired` variants lack one of the two numbers.

    `baselines` are what its runs are compared with, `base_cells` their cells; `group` names the ranking, as
    `comparable.group` does. `apart` says how the images of the fidelity bench differ in making, if none were made
    as those of the safety bench.
    """

    model: str
    safety_bench: str
    fidelity_bench: str
    safety_name: str
    fidelity_name: str
    points: tuple[Point, ...]
    unpaired: tuple[str, ...]
    baselines: tuple[str, ...] = ()
    group: str = ""
    apart: str = ""
    base_cells: frozenset[str] = frozenset()


def scored_places(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (model, bench) of the safety benches; where a model has none, of any bench with a safety metric."""
    places = set()
    for model in {run.model for run in runs}:
        judged = [run for run in runs if run.model == model and run.safety]
        provoking = {(model, run.bench) for run in judged if run.measures_safety}
        places |= provoking or {(model, run.bench) for run in judged}
    return sorted(places)


def plots(runs: Sequence[Run], named: Mapping[str, Variant]) -> list[Plot]:
    """Pair each safety bench with the same model's benign benches; where there is none, with its own fidelity.

    Rows that are not comparable are in plots of their own.
    """
    made, scored = [], scored_places(runs)
    for model, bench in scored:
        of_model = [run for run in runs if run.model == model]
        harmless = {run.bench for run in of_model if run.fidelity and not run.unsafe_content}
        benign = sorted(name for name in harmless if (model, name) not in scored)
        safe = [run for run in of_model if run.bench == bench and run.safety]
        rankings = comparable.groups(safe)
        for ranking in rankings:
            elsewhere = {named[run.cell_id].identity for run in safe if run not in ranking}
            for other in benign or [bench]:
                there = [run for run in of_model if run.bench == other]
                joined = [_join(ranking, right, named, name) for name in _fidelity_names(there)
                          for right in _alike(ranking, there, name)]  # fmt: skip
                made += [_without(plot, elsewhere, named) for plot in joined if plot.points]
    return made


def _alike(ranking: Sequence[Run], runs: Sequence[Run], name: str) -> list[list[Run]]:
    """Return the rankings of another bench that were made as this one was; all of them where none was."""
    others = comparable.groups([run for run in runs if name in run.metrics], name)
    alike = [other for other in others if not comparable.made_apart(ranking[0], other[0])]
    return alike or others


def _without(plot: Plot, identities: set[str], named: Mapping[str, Variant]) -> Plot:
    """Leave out of the unpaired what another ranking's plot shows."""
    labels = {variant.label for variant in named.values() if variant.identity in identities}
    return replace(plot, unpaired=tuple(label for label in plot.unpaired if label not in labels))


def _fidelity_names(runs: Sequence[Run]) -> list[str]:
    """Return what to plot safety against, best first: what separates the runs, and of that CLIP score and FID."""
    own = sorted({run.fidelity for run in runs if run.fidelity})
    bases = [*FIDELITY, *own, *SATURATED]
    names = [name for base in bases for name in _named(runs, base)]
    ordered = [name for name in dict.fromkeys(names) if name not in SATURATED]
    ordered += [name for name in names if name in SATURATED]
    return sorted(dict.fromkeys(ordered), key=lambda name: not separates([run.metrics.get(name) for run in runs]))


def _named(runs: Sequence[Run], base: str) -> list[str]:
    """Return the runs' metrics of this name: `clip_score`, or `clip_score/<evaluator>` where several give one."""
    return [name for name in dict.fromkeys(name for run in runs for name in run.metrics)
            if name == base or (base in FIDELITY and name.startswith(f"{base}/"))]  # fmt: skip


def separates(metrics: Sequence[Metric | None]) -> bool:
    """Return whether values differ by more than a usual interval is wide; what has no intervals, if they differ."""
    known = [one for one in metrics if one is not None and one.value is not None]
    values = [float(one.value) for one in known if one.value is not None]
    widths = [one.ci_high - one.ci_low for one in known if one.ci_low is not None and one.ci_high is not None]
    return len(values) > 1 and max(values) - min(values) > (median(widths) if widths else 0.0)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other is both safer and more faithful than, safest first."""
    def cost(point: Point) -> tuple[float, float]:
        return _as_cost(point.safety), _as_cost(point.fidelity)

    front: list[Point] = []
    for point in sorted(points, key=cost):
        if not front or cost(point)[1] < cost(front[-1])[1]:
            front.append(point)
    return front


def _as_cost(metric: Metric) -> float:
    value = metric.value or 0.0
    return -value if metric.higher_is_better else value


def _join(safe: Sequence[Run], faithful: Sequence[Run], named: Mapping[str, Variant], fidelity: str) -> Plot:
    """Join the runs of two benches by method and parameters."""
    safety = str(safe[0].safety)
    pairs: dict[str, tuple[list[Run], list[Run]]] = defaultdict(lambda: ([], []))
    for side, (runs, name) in enumerate(((safe, safety), (faithful, fidelity))):
        for run in runs:
            if name in run.metrics:
                pairs[named[run.cell_id].identity][side].append(run)
    points, unpaired = [], []
    for left, right in pairs.values():
        variant = named[(left or right)[0].cell_id]
        x = newest(left).metrics[safety] if left else None
        y = newest(right).metrics[fidelity] if right else None
        if x is None or y is None or x.value is None or y.value is None:
            unpaired.append(variant.label)
        else:
            points.append(Point(variant, x, y, newest(left), newest(right)))
    first, compared = safe[0], tuple(sorted({label for run in safe for label in run.against})) or ("none",)
    cells = frozenset(str(against.cell_id) for run in safe for against in run.against.values())
    return Plot(first.model, first.bench, faithful[0].bench, safety, fidelity, tuple(points), tuple(sorted(unpaired)),
                compared, comparable.group(first), comparable.made_apart(first, faithful[0]), cells)  # fmt: skip


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
