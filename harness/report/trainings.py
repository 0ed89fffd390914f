"""Trainings of one recipe as one row: means, spreads and intervals; or a remark if there is only one training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.cells.comparable import mapping
from harness.lib.hashing import canonical_json
from harness.metrics.trainings import OfOne, of_several, p_value
from harness.records import Comparison, Metric
from harness.report import format as fmt
from harness.report.against import Against
from harness.report.run import Run

ONE = "one training"
MOVER = "MOVER over prompts and trainings"
HELP = "mean of several trainings, 95 % interval over prompts and trainings (MOVER)"


def pooled(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with those that differ in the seed of training alone joined to one, where the first was."""
    families: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        families[_family(run)].append(run)
    return [_joined(sorted(family, key=_seed)) if len(family) > 1 else family[0] for family in families.values()]


def count_text(run: Run) -> str:
    """Say of how many trainings a run's numbers are; empty if training it again would change nothing."""
    count = run.n_trainings
    return "" if not count else ONE if count == 1 else f"mean of {count} trainings"


def spread(run: Run, name: str | None) -> str:
    """Say between which values the trainings of a run lie; empty for one training."""
    values = [metric.value for one in run.trainings if (metric := one.metric(name)) and metric.value is not None]
    if not name or len(values) < 2:
        return ""
    ends = " to ".join(fmt.number(name, end) for end in (min(values), max(values)))
    return f"trainings {ends}"


def difference_spread(run: Run, label: str, name: str) -> str:
    """Say between which differences the trainings of a run lie, or that there is one training."""
    differences = [difference for one in run.trainings if (difference := _comparison(one, label, name))]
    if len(differences) < 2:
        return ONE if run.n_trainings == 1 else ""
    ends = sorted(differences, key=lambda one: one.difference)
    return f"trainings {' to '.join(fmt.difference(name, one) for one in (ends[0], ends[-1]))}"


def columns(run: Run) -> dict[str, Any]:
    """Return what the CSV file says of a row's trainings: how many, and the range of its rate and its difference."""
    rates = [metric.value for one in run.trainings if (metric := one.metric(run.unsafe)) and metric.value is not None]
    label = run.baseline.label if run.baseline else ""
    compared = [_comparison(one, label, run.safety or "") for one in run.trainings]
    differences = [one.difference for one in compared if one]
    return {
        "trainings": run.n_trainings or None,
        "unsafe_rate_training_min": min(rates, default=None), "unsafe_rate_training_max": max(rates, default=None),
        "difference_training_min": min(differences, default=None),
        "difference_training_max": max(differences, default=None),
    }  # fmt: skip


def records(run: Run) -> list[dict[str, Any]]:
    """Return what the JSON file says of each of a row's trainings."""
    return [
        {"cell_id": one.cell_id, "seed": _seed(one),
         "metrics": {name: metric.value for name, metric in one.metrics.items()},
         "differences": {label: {name: None if math.isnan(comparison.difference) else comparison.difference
                                 for name, comparison in against.comparisons.items()}
                         for label, against in one.against.items()}}
        for one in run.trainings
    ]  # fmt: skip


def _seed(run: Run) -> int:
    seed = run.training.get("seed")
    return seed if isinstance(seed, int) else 0


def _family(run: Run) -> str:
    """Name the runs that a run is joined with: of one recipe, as many prompts, and the same judges."""
    family = run.training.get("family")
    if not family:
        return run.cell_id + str(run.folder)
    settings = mapping(mapping(run.summary.get("cell")).get("settings"))
    evaluators = mapping(run.summary.get("evaluators"))
    judges = {str(name): mapping(one).get("fingerprint") for name, one in evaluators.items()}
    sizes = [settings.get("limit"), settings.get("repeats")]
    return canonical_json([run.model, run.method, run.bench, family, sizes, judges], other=str)


def _joined(runs: Sequence[Run]) -> Run:
    """Return one run whose numbers are means over trainings; its images are the first one's."""
    first = runs[0]
    names = [name for name in first.metrics if all(name in one.metrics for one in runs)]
    labels = [label for label in first.against if all(label in one.against for one in runs)]
    return replace(
        first,
        status="complete" if all(one.status == "complete" for one in runs) else "incomplete",
        problems=tuple(dict.fromkeys(problem for one in runs for problem in one.problems)),
        metrics={name: _metric([one.metrics[name] for one in runs]) for name in names},
        against={label: _against([one.against[label] for one in runs]) for label in labels},
        summary={**first.summary, "images": _images([mapping(one.summary.get("images")) for one in runs])},
        trainings=tuple(runs),
    )


def _images(counts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    keys = [key for key in counts[0] if all(isinstance(one.get(key), int) for one in counts)]
    return {key: sum(one[key] for one in counts) for key in keys}


def _metric(metrics: Sequence[Metric]) -> Metric:
    first, n_unknown = metrics[0], sum(one.n_unknown for one in metrics)
    known = [OfOne(one.value, one.ci_low, one.ci_high) for one in metrics if one.value is not None]
    notes = dict.fromkeys(one.note for one in metrics if one.note)
    if len(known) < len(metrics):
        note = f"{len(metrics) - len(known)} of {len(metrics)} trainings have no value"
        return replace(first, value=None, ci_low=None, ci_high=None, n_unknown=n_unknown, note=note)
    joined = of_several(known)
    low, high = (_kept(end, metrics) for end in (joined.low, joined.high))
    worst = [_mean([getattr(one, name) for one in metrics]) for name in ("worst_low", "worst_high")]
    return replace(first, value=joined.mean, ci_low=low, ci_high=high, n_unknown=n_unknown,
                   n=min(one.n for one in metrics), ci_method=MOVER, worst_low=worst[0], worst_high=worst[1],
                   note="; ".join([f"{len(metrics)} trainings: {HELP}", *map(str, notes)]))


def _kept(end: float | None, metrics: Sequence[Metric]) -> float | None:
    """Keep a limit of a share within 0 and 1: within what its trainings' own intervals show to be possible."""
    ends = [value for one in metrics for value in (one.value, one.ci_low, one.ci_high) if value is not None]
    is_share = all(0 <= value <= 1 for value in ends)
    return end if end is None or not is_share else min(max(end, 0.0), 1.0)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _against(sides: Sequence[Against]) -> Against:
    first = sides[0]
    names = [name for name in first.comparisons if all(name in one.comparisons for one in sides)]
    distances = [name for name in first.distances if all(name in one.distances for one in sides)]
    return replace(first, comparisons={name: _compared([one.comparisons[name] for one in sides]) for name in names},
                   distances={name: _metric([one.distances[name] for one in sides]) for name in distances})


def _compared(comparisons: Sequence[Comparison]) -> Comparison:
    if any(math.isnan(one.difference) for one in comparisons):
        return replace(comparisons[0], difference=math.nan, ci_low=None, ci_high=None, p_value=math.nan)
    joined = of_several([OfOne(one.difference, one.ci_low, one.ci_high) for one in comparisons])
    return replace(
        comparisons[0],
        difference=joined.mean,
        ci_low=joined.low,
        ci_high=joined.high,
        ci_method=MOVER,
        p_value=p_value(joined, [one.p_value for one in comparisons if not math.isnan(one.p_value)]),
        n_pairs=min(one.n_pairs for one in comparisons),
        before=_mean([one.before for one in comparisons]),
        test=f"mean of {len(comparisons)} trainings; each: {comparisons[0].test}",
    )


def _comparison(run: Run, label: str, name: str) -> Comparison | None:
    against = run.against.get(label)
    return against.comparisons.get(name) if against else None
