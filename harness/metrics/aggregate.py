"""One metric or comparison from one sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.metrics.bootstrap import cluster_bootstrap, group_sums, paired_bootstrap
from harness.metrics.clustered import CLUSTERED_DIFFERENCE, CLUSTERED_WILSON, clustered_difference, clustered_wilson
from harness.metrics.paired import mcnemar_exact, newcombe_paired_difference
from harness.metrics.proportion import Interval, coverage_bounds, normal_quantile, rate_interval
from harness.records import Comparison, ImageRow, Metric, ScoreRow, Verdict

FEW_CLUSTERS = 20
BOOTSTRAP = "cluster bootstrap"
PAIRED_BOOTSTRAP = "paired bootstrap"
SIGN_FLIP = "sign-flip by prompt, {} interval"
ALIKE = "all pairs differ by the same amount"
Pair = tuple[ImageRow, ScoreRow, ScoreRow]


@dataclass(frozen=True)
class Sample:
    """Known values with their cluster labels, how many are unknown, and remarks for the note."""

    values: Sequence[float]
    clusters: Sequence[Hashable]
    unknown: int
    notes: Sequence[str] = field(default_factory=list)


def rate_metric(sample: Sample, higher_is_better: bool, seed: int) -> Metric:
    """Make a rate of 0/1 values: Wilson, clustered if prompts have several images; worst case of unknowns."""
    n, unknown = len(sample.values), sample.unknown
    successes = int(sum(sample.values))
    worst = coverage_bounds(successes, n, unknown) if unknown else None
    worst_low, worst_high = worst if worst else (None, None)
    if n == 0:
        empty = "; ".join(["no image was judged", *sample.notes])
        return Metric(None, None, None, 0, unknown, higher_is_better, worst_low, worst_high, empty)
    interval, method, notes = _rate_interval(successes, sample)
    note = "; ".join([*notes, *sample.notes]) or None
    return Metric(successes / n, *interval, n, unknown, higher_is_better, worst_low, worst_high, note, method)


def _rate_interval(successes: int, sample: Sample) -> tuple[Interval, str, list[str]]:
    n, k = len(sample.values), len(set(sample.clusters))
    if k == n:
        return *rate_interval(successes, n), []
    interval = clustered_wilson(sample.values, sample.clusters)
    shares = group_sums(sample.values, sample.clusters)
    alike = np.ptp(shares.sums / shares.sizes) == 0
    notes = [f"no spread between prompts: Wilson over {k} prompts"] if alike else _few(k)
    return interval, CLUSTERED_WILSON, notes


def mean_metric(sample: Sample, higher_is_better: bool, seed: int) -> Metric:
    """Make a mean with its bootstrap interval, clustered by prompt; shares of 0 and 1 get a rate's interval."""
    n = len(sample.values)
    if n == 0:
        note = "; ".join(["no image has a value", *sample.notes])
        return Metric(None, None, None, 0, sample.unknown, higher_is_better, note=note)
    if binary(sample.values):
        return rate_metric(sample, higher_is_better, seed)
    mean, k = sum(sample.values) / n, len(set(sample.clusters))
    low, high = cluster_bootstrap(sample.values, sample.clusters, seed)
    if k == 1 or not low < high:
        why = ["only 1 prompt, so no interval"] if k == 1 else ["no spread, so no interval"]
        note = "; ".join([*why, *sample.notes])
        return Metric(mean, None, None, n, sample.unknown, higher_is_better, note=note)
    bounds, said = (min(low, mean), max(high, mean)), "; ".join([*_few(k), *sample.notes]) or None
    return Metric(mean, *bounds, n, sample.unknown, higher_is_better, note=said, ci_method=BOOTSTRAP)


def binary(values: Iterable[float]) -> bool:
    """Return whether every value is 0 or 1."""
    return all(value in (0, 1) for value in values)


def _few(prompts: int) -> list[str]:
    if prompts >= FEW_CLUSTERS:
        return []
    return [f"only {prompts} prompt{'s' if prompts != 1 else ''}: the interval is too narrow"]


def verdict_comparison(
    pairs: Sequence[Pair], baseline: str, seed: int, level: float = 0.95
) -> Comparison | None:
    """Compare verdicts: McNemar exact and Newcombe for one image per prompt, else clustered by prompt.

    `level` is that of the interval.
    """
    known = [(image, row, other) for image, row, other in pairs if _known(row) and _known(other)]
    if not known:
        return None
    own_unsafe = [float(row.verdict is Verdict.UNSAFE) for _, row, _ in known]
    other_unsafe = [float(other.verdict is Verdict.UNSAFE) for _, _, other in known]
    prompts = [image.prompt for image, _, _ in known]
    return _rates(own_unsafe, other_unsafe, prompts, baseline, seed, level)


def value_comparison(
    pairs: Sequence[Pair], baseline: str, seed: int, level: float = 0.95
) -> Comparison | None:
    """Compare values by paired bootstrap, clustered by prompt; values of 0 and 1 as verdicts are."""
    known = [
        (image.prompt, row.value, other.value)
        for image, row, other in pairs
        if row.value is not None and other.value is not None and row.error is None and other.error is None
    ]
    if not known:
        return None
    prompts, own_values, other_values = zip(*known, strict=True)
    return paired_comparison(own_values, other_values, prompts, baseline, seed, level)


def paired_comparison(
    values: Sequence[float], other: Sequence[float], prompts: Sequence[str], baseline: str, seed: int,
    level: float = 0.95,
) -> Comparison:  # fmt: skip
    """Compare numbers of the same images, pair by pair, as `value_comparison` does; there is at least one."""
    compare = _rates if binary(values) and binary(other) else _means
    return compare(values, other, prompts, baseline, seed, level)


def _rates(
    values: Sequence[float], other: Sequence[float], prompts: Sequence[str], baseline: str, seed: int, level: float
) -> Comparison:
    if len(set(prompts)) < len(prompts):
        result = paired_bootstrap(values, other, prompts, seed)
        interval = clustered_difference(values, other, prompts, level)
        note = "; ".join(_few(len(set(prompts)))) or None
        return Comparison(baseline, result.difference, *interval, result.p_value, len(values),
                          SIGN_FLIP.format(CLUSTERED_DIFFERENCE), sum(other) / len(other),
                          ci_method=CLUSTERED_DIFFERENCE, note=note)  # fmt: skip
    table = Counter(zip(values, other, strict=True))
    only_own, only_other, n = table[1, 0], table[0, 1], len(values)
    interval = newcombe_paired_difference(table[1, 1], only_own, only_other, table[0, 0], normal_quantile(level))
    p = mcnemar_exact(only_own, only_other)
    return Comparison(baseline, (only_own - only_other) / n, *interval, p, n, "McNemar exact, Newcombe interval",
                      sum(other) / n, ci_method="Newcombe")  # fmt: skip


def _means(
    values: Sequence[float], other: Sequence[float], prompts: Sequence[str], baseline: str, seed: int, level: float
) -> Comparison:
    result, k = paired_bootstrap(values, other, prompts, seed, level=level), len(set(prompts))
    interval = Interval(min(result.low, result.difference), max(result.high, result.difference))
    bounds: Interval | None = interval
    method, notes = PAIRED_BOOTSTRAP, _few(k)
    if _alike(values, other) or not interval.low < interval.high:
        bounds = _without_spread(result.difference, (*values, *other), k, level)
        method, notes = f"{method}, widened for prompts not seen", [*notes, *([ALIKE] if _alike(values, other) else [])]
    if bounds is None:
        notes = [*notes, "all values are equal: no interval"]
    low, high = bounds or (None, None)
    return Comparison(baseline, result.difference, low, high, result.p_value, len(values),
                      SIGN_FLIP.format(method), sum(other) / len(other), ci_method=method if bounds else None,
                      note="; ".join(notes) or None)  # fmt: skip


def _alike(values: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether all pairs differ by the same, but for rounding."""
    differences = np.subtract(values, other)
    return float(np.ptp(differences)) <= 1e-12 * max(1.0, float(np.abs([values, other]).max()))


def _without_spread(difference: float, values: Sequence[float], clusters: int, level: float) -> Interval | None:
    """Bound a mean difference that is the same in every pair: prompts not seen may differ by the range of the values.

    With the confidence of `level` they are at most `_unseen` of all. None if the values do not differ at all.
    """
    reach = _unseen(clusters, level) * float(max(values) - min(values))
    return Interval(difference - reach, difference + reach) if reach > 0 else None


def _unseen(clusters: int, level: float) -> float:
    """Return the exact upper bound of a share that none of `clusters` has (Clopper and Pearson 1934)."""
    outside = 0.025 if level == 0.95 else (1 - level) / 2
    return float(1 - outside ** (1 / clusters))


def _known(row: ScoreRow) -> bool:
    return row.error is None and row.verdict in (Verdict.SAFE, Verdict.UNSAFE)
