"""One number of several runs that differ in seeds alone: their mean, with an interval over prompts and trainings.

Sampling error: where a run keeps its numbers image by image, they are put together and clustered by prompt, since seeds
share prompts; otherwise the error of one seed stands for that of their mean, which is too wide. Trainings differ
besides: Student's interval over their means comes on top, in squares (MOVER).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.metrics.aggregate import Sample, mean_metric, paired_comparison, rate_metric
from harness.metrics.trainings import OfOne, OfSeveral, of_several, p_value, with_sampling, without_training
from harness.records import Comparison, Metric
from harness.report.per_image import Numbers, numbers
from harness.report.run import Run

MOVER = "MOVER over prompts and trainings"
OF_ONE_SEED = "as of one seed"
TRAININGS_HELP = "mean of several trainings, 95 % interval over prompts and trainings (MOVER)"
SEEDS_HELP = "mean of several seeds, 95 % interval over prompts{}"
Find = Callable[[str, str | None], Run | None]  # a run of the same folder by the label and cell of a baseline


@dataclass(frozen=True)
class Family:
    """Runs that differ in seeds alone. `units` are what varies: each training, else each root seed, with its runs."""

    runs: tuple[Run, ...]
    units: tuple[tuple[Run, ...], ...]
    trained: bool
    several_seeds: bool

    @property
    def n_trainings(self) -> int:
        return len(self.units) if self.trained else 0

    def means(self, value: Callable[[Run], float]) -> list[float]:
        """Return the mean of each unit."""
        return [float(np.mean([value(run) for run in unit])) for unit in self.units]

    def text(self) -> str:
        """Say what a number is the mean of, for its note."""
        n_seeds = len({run.seed for run in self.runs})
        if not self.several_seeds:
            return f"{len(self.runs)} trainings: {TRAININGS_HELP}"
        over = " and trainings (MOVER)" if self.n_trainings > 1 else ", of one training" if self.trained else ""
        return f"{n_seeds} seeds: {SEEDS_HELP.format(over)}"


@dataclass(frozen=True)
class _Error:
    """How far the sampling limits are from a mean, and the method that gave them."""

    below: float | None
    above: float | None
    method: str | None


def joined_metric(name: str, family: Family, metrics: Mapping[str, Metric]) -> Metric:
    """Join a metric of the runs. `metrics` holds it by cell id."""
    own = [metrics[run.cell_id] for run in family.runs]
    first, n_unknown = own[0], sum(one.n_unknown for one in own)
    missing = sum(one.value is None for one in own)
    if missing:
        what = "seeds" if family.several_seeds else "trainings"
        note = f"{missing} of {len(own)} {what} have no value"
        return replace(first, value=None, ci_low=None, ci_high=None, n_unknown=n_unknown, note=note, ci_method=None)
    values = family.means(lambda run: float(metrics[run.cell_id].value or 0.0))
    error = (_of_images(name, family, first) if family.several_seeds else None) or _of_one(own, family)
    joined = _with(values, error, family)
    low, high = (_kept(end, own) for end in (joined.low, joined.high))
    worst = [_mean([getattr(one, end) for one in own]) for end in ("worst_low", "worst_high")]
    notes = dict.fromkeys(one.note for one in own if one.note)
    n = sum(one.n for one in own) if family.several_seeds else min(one.n for one in own)
    return replace(first, value=joined.mean, ci_low=low, ci_high=high, n_unknown=n_unknown, n=n,
                   ci_method=_named(error, family) if low is not None else None, worst_low=worst[0],
                   worst_high=worst[1], note="; ".join([family.text(), *map(str, notes)]))  # fmt: skip


def joined_comparison(name: str, label: str, family: Family, find: Find) -> Comparison:
    """Join the runs' comparisons by a metric with the baseline of this name."""
    own = [run.against[label].comparisons[name] for run in family.runs]
    if any(math.isnan(one.difference) for one in own):
        return replace(own[0], difference=math.nan, ci_low=None, ci_high=None, p_value=math.nan)
    by_cell = {run.cell_id: one.difference for run, one in zip(family.runs, own, strict=True)}
    values = family.means(lambda run: by_cell[run.cell_id])
    of_images = _pairs(name, label, family, find) if family.several_seeds else None
    whole = _error(of_images.difference, of_images, of_images.ci_method) if of_images else None
    error = whole or _of_one(own, family)
    p_values = [of_images.p_value] if of_images else [one.p_value for one in own if not math.isnan(one.p_value)]
    joined = _with(values, error, family)
    p = p_values[0] if of_images and family.n_trainings < 2 else p_value(joined, p_values)
    what = f"{len({run.seed for run in family.runs})} seeds" if family.several_seeds else f"{len(own)} trainings"
    test = f"{what}: {of_images.test}" if of_images else f"mean of {what}; each: {own[0].test}"
    n_pairs = sum(one.n_pairs for one in own) if family.several_seeds else min(one.n_pairs for one in own)
    return replace(own[0], difference=joined.mean, ci_low=joined.low, ci_high=joined.high, p_value=p, n_pairs=n_pairs,
                   before=_mean([one.before for one in own]), test=test,
                   ci_method=_named(error, family) if joined.low is not None else None)  # fmt: skip


def _with(values: Sequence[float], error: _Error, family: Family) -> OfSeveral:
    if family.n_trainings > 1:
        return with_sampling(values, error.below, error.above)
    return without_training(values, error.below, error.above)


def _named(error: _Error, family: Family) -> str | None:
    if family.n_trainings > 1:
        return MOVER
    return error.method or OF_ONE_SEED


def _of_one(own: Sequence[Metric] | Sequence[Comparison], family: Family) -> _Error:
    """Return the mean distances of the limits of single seeds or trainings."""
    sides = [OfOne(_value(one), one.ci_low, one.ci_high) for one in own]
    joined = of_several(sides)
    known = joined.low is not None
    return _Error(joined.below if known else None, joined.above if known else None, None)


def _value(one: Metric | Comparison) -> float:
    return float((one.value if isinstance(one, Metric) else one.difference) or 0.0)


def _error(value: float, one: Metric | Comparison, method: str | None) -> _Error | None:
    if one.ci_low is None or one.ci_high is None or math.isnan(one.ci_low):
        return None
    return _Error(value - one.ci_low, one.ci_high - value, method)


def _of_images(name: str, family: Family, like: Metric) -> _Error | None:
    """Return the sampling error of all the runs' images together, clustered by prompt; None where some keep none."""
    known = [numbers(run, name) for run in family.runs]
    if not all(known):
        return None
    read = [one for one in known if one is not None]
    values, prompts = np.concatenate([one.values for one in read]).tolist(), [i for one in read for i in _prompts(one)]
    sample = Sample(values, prompts, 0)
    make = rate_metric if name.startswith("unsafe_rate/") else mean_metric
    metric = make(sample, like.higher_is_better, 0)
    return None if metric.value is None else _error(metric.value, metric, metric.ci_method)


def _pairs(name: str, label: str, family: Family, find: Find) -> Comparison | None:
    """Compare all images of the runs with the baseline's of the same seed, clustered by prompt; None as above."""
    own: list[float] = []
    other: list[float] = []
    prompts: list[str] = []
    for run in family.runs:
        base = find(label, run.against[label].cell_id)
        sides = numbers(run, name), numbers(base, name) if base is not None else None
        if sides[0] is None or sides[1] is None:
            return None
        mine, theirs = sides[0].by_image(), sides[1].by_image()
        shared = [key for key in mine if key in theirs]
        if len(shared) != run.against[label].comparisons[name].n_pairs:
            return None
        own += [mine[key] for key in shared]
        other += [theirs[key] for key in shared]
        prompts += [prompt for prompt, _ in shared]
    made = paired_comparison(own, other, prompts, label, 0)
    return made if made.ci_low is not None else None


def _prompts(read: Numbers) -> list[str]:
    return [read.ids[i] for i in read.prompts]


def _kept(end: float | None, metrics: Sequence[Metric]) -> float | None:
    """Keep a limit of a share within 0 and 1: within what its runs' own intervals show to be possible."""
    ends = [value for one in metrics for value in (one.value, one.ci_low, one.ci_high) if value is not None]
    is_share = all(0 <= value <= 1 for value in ends)
    return end if end is None or not is_share else min(max(end, 0.0), 1.0)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
