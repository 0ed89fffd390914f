"""One metric or comparison from one sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from harness.metrics.bootstrap import cluster_bootstrap, paired_bootstrap
from harness.metrics.paired import mcnemar_exact, newcombe_paired_difference
from harness.metrics.proportion import Interval, coverage_bounds, wilson_interval
from harness.records import Comparison, ImageRow, Metric, ScoreRow, Verdict

FEW_CLUSTERS = 20
Pair = tuple[ImageRow, ScoreRow, ScoreRow]


@dataclass(frozen=True)
class Sample:
    """Known values with their cluster labels, how many are unknown, and remarks for the note."""

    values: Sequence[float]
    clusters: Sequence[Hashable]
    unknown: int
    notes: Sequence[str] = field(default_factory=list)


def rate_metric(sample: Sample, higher_is_better: bool, seed: int) -> Metric:
    """Make a rate of 0/1 values: Wilson for one image a prompt, else bootstrap by prompt; worst case of unknowns."""
    n, unknown = len(sample.values), sample.unknown
    successes = int(sum(sample.values))
    worst = coverage_bounds(successes, n, unknown) if unknown else None
    worst_low, worst_high = worst if worst else (None, None)
    if n == 0:
        empty = "; ".join(["no image was judged", *sample.notes])
        return Metric(None, None, None, 0, unknown, higher_is_better, worst_low, worst_high, empty)
    interval, notes = _rate_interval(successes, sample, seed)
    note = "; ".join([*notes, *sample.notes]) or None
    return Metric(successes / n, *interval, n, unknown, higher_is_better, worst_low, worst_high, note)


def _rate_interval(successes: int, sample: Sample, seed: int) -> tuple[Interval, list[str]]:
    n, k = len(sample.values), len(set(sample.clusters))
    if k == n:
        return wilson_interval(successes, n), []
    interval = cluster_bootstrap(sample.values, sample.clusters, seed)
    if interval.low < interval.high:
        return interval, _few(k)
    rate = successes / n
    low, high = wilson_interval(round(rate * k), k)
    return Interval(min(low, rate), max(high, rate)), [f"no spread between prompts: Wilson over {k} prompts"]


def mean_metric(sample: Sample, higher_is_better: bool, seed: int) -> Metric:
    """Make a mean with its bootstrap interval, clustered by prompt."""
    n = len(sample.values)
    if n == 0:
        note = "; ".join(["no image has a value", *sample.notes])
        return Metric(None, None, None, 0, sample.unknown, higher_is_better, note=note)
    mean, k = sum(sample.values) / n, len(set(sample.clusters))
    notes = [*_few(k), *sample.notes]
    if k == 1:
        return Metric(mean, None, None, n, sample.unknown, higher_is_better, note="; ".join(notes))
    low, high = cluster_bootstrap(sample.values, sample.clusters, seed)
    bounds = min(low, mean), max(high, mean)
    return Metric(mean, *bounds, n, sample.unknown, higher_is_better, note="; ".join(notes) or None)


def _few(clusters: int) -> list[str]:
    return [f"only {clusters} clusters: the interval is too narrow"] if clusters < FEW_CLUSTERS else []


def verdict_comparison(pairs: Sequence[Pair], baseline: str, seed: int) -> Comparison | None:
    """Compare verdicts: McNemar exact and Newcombe for one image a prompt, else paired bootstrap by prompt."""
    known = [(image, own, other) for image, own, other in pairs if _known(own) and _known(other)]
    if not known:
        return None
    prompts = [image.prompt for image, _, _ in known]
    own_unsafe = [own.verdict is Verdict.UNSAFE for _, own, _ in known]
    other_unsafe = [other.verdict is Verdict.UNSAFE for _, _, other in known]
    if len(set(prompts)) < len(prompts):
        return _bootstrapped([*map(float, own_unsafe)], [*map(float, other_unsafe)], prompts, baseline, seed)
    table = Counter(zip(own_unsafe, other_unsafe, strict=True))
    only_own, only_other, n = table[True, False], table[False, True], len(known)
    low, high = newcombe_paired_difference(table[True, True], only_own, only_other, table[False, False])
    p = mcnemar_exact(only_own, only_other)
    test, before = "McNemar exact, Newcombe interval", sum(other_unsafe) / n
    return Comparison(baseline, (only_own - only_other) / n, low, high, p, n, test, before=before)


def value_comparison(pairs: Sequence[Pair], baseline: str, seed: int) -> Comparison | None:
    """Compare values by paired bootstrap, clustered by prompt."""
    known = [
        (image.prompt, own.value, other.value)
        for image, own, other in pairs
        if own.value is not None and other.value is not None and own.error is None and other.error is None
    ]
    if not known:
        return None
    prompts, own_values, other_values = zip(*known, strict=True)
    return _bootstrapped(own_values, other_values, prompts, baseline, seed)


def _known(row: ScoreRow) -> bool:
    return row.error is None and row.verdict in (Verdict.SAFE, Verdict.UNSAFE)


def _bootstrapped(
    own: Sequence[float], other: Sequence[float], prompts: Sequence[str], baseline: str, seed: int
) -> Comparison:
    found = paired_bootstrap(own, other, prompts, seed)
    low, high = min(found.low, found.difference), max(found.high, found.difference)
    test = "sign-flip by prompt, paired bootstrap interval"
    before = sum(other) / len(other)
    return Comparison(baseline, found.difference, low, high, found.p_value, len(own), test, before=before)
