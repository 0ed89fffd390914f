"""Bootstrap intervals of means, clustered by prompt."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.metrics.proportion import Interval

RESAMPLES = 10_000
CHUNK_ELEMENTS = 2_000_000  # bounds memory to some tens of MB
FEW_KINDS = 8  # clusters a kind from which counting kinds is faster than drawing clusters


class PairedDifference(NamedTuple):
    """A mean difference a - b, its 95 % interval and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


class Clusters(NamedTuple):
    """Per cluster: the sum of its values and how many they are."""

    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]


def group_sums(values: ArrayLike, clusters: Sequence[Hashable]) -> Clusters:
    """Sum values by cluster label, in order of first appearance. Raises ValueError for NaN or no values."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or len(clusters) != array.size:
        raise ValueError(f"{array.shape} values for {len(clusters)} cluster labels")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite")
    index: dict[Hashable, int] = {}
    codes = np.fromiter((index.setdefault(label, len(index)) for label in clusters), dtype=np.int64)
    sums = np.bincount(codes, weights=array).astype(np.float64)
    return Clusters(sums, np.bincount(codes).astype(np.float64))


def resampled_means(groups: Clusters, resamples: int, seed: int) -> NDArray[np.float64]:
    """Draw whole clusters with replacement; return each draw's sum of values over its count."""
    kinds = _kinds(groups)
    if FEW_KINDS * kinds.counts.size <= groups.sums.size:
        return _means_by_kind(kinds, resamples, seed)
    rng = np.random.default_rng(seed)
    sums, sizes = groups
    equal = bool(np.all(sizes == sizes[0]))
    means = []
    for rows in _chunks(resamples, sums.size):
        drawn = rng.integers(0, sums.size, size=(rows, sums.size), dtype=np.int32)
        counts = sizes[0] * sums.size if equal else sizes[drawn].sum(axis=1)
        means.append(sums[drawn].sum(axis=1) / counts)
    return np.concatenate(means)


class _Kinds(NamedTuple):
    """Clusters of the same sum and size are one kind; `counts` says how many it has."""

    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]
    counts: NDArray[np.int64]


def _kinds(groups: Clusters) -> _Kinds:
    pairs, first, counts = np.unique(np.stack(groups, axis=1), axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)  # not by value: then a - b and b - a are drawn alike, and their intervals mirror
    return _Kinds(pairs[order, 0], pairs[order, 1], counts[order])


def _means_by_kind(kinds: _Kinds, resamples: int, seed: int) -> NDArray[np.float64]:
    """Draw how often each kind comes: the same law as drawing its clusters one by one."""
    n = int(kinds.counts.sum())
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, kinds.counts / n, size=resamples)
    means: NDArray[np.float64] = (drawn @ kinds.sums) / (drawn @ kinds.sizes)
    return means


def cluster_bootstrap(
    values: ArrayLike, clusters: Sequence[Hashable], seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Bound a mean by the 95 % percentile bootstrap over clusters (Field and Welsh 2007).

    Images of one prompt are correlated (intraclass correlation about 0.35 on I2P), so prompts are drawn, not
    images. `clusters` holds each value's label. Measured coverage of verdicts: 94 to 95 % from 50 prompts.
    """
    means = resampled_means(group_sums(values, clusters), resamples, seed)
    return _percentile_interval(means)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], seed: int, resamples: int = RESAMPLES,
    level: float = 0.95,
) -> PairedDifference:
    """Compare paired values: mean of a - b, bootstrap interval over clusters, sign-flip p-value.

    The p-value flips the sign of whole clusters' differences (Fisher's randomisation test), since a bootstrap's
    own tail is far too small for few clusters; it is at least 1 / (resamples + 1). Measured coverage of the interval:
    93 % with 50 clusters, 95 % with 150.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} values against {second.shape}")
    groups = group_sums(first - second, clusters)
    low, high = _percentile_interval(resampled_means(groups, resamples, seed), level)
    difference = float(groups.sums.sum() / groups.sizes.sum())
    return PairedDifference(difference, low, high, _sign_flip_p(groups.sums, resamples, seed))


def _sign_flip_p(sums: NDArray[np.float64], resamples: int, seed: int) -> float:
    rng = np.random.default_rng([seed, 1])
    observed = abs(sums.sum()) * (1 - 1e-12)  # ties by rounding count as at least as extreme
    values, counts = np.unique(np.abs(sums), return_counts=True)
    if FEW_KINDS * values.size <= sums.size:
        kept = rng.binomial(counts, 0.5, size=(resamples, counts.size))
        return _tail(int(np.count_nonzero(np.abs((2 * kept - counts) @ values) >= observed)), resamples)
    extreme = 0
    for rows in _chunks(resamples, sums.size):
        signs = rng.integers(0, 2, size=(rows, sums.size), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(signs @ (2 * sums) - sums.sum()) >= observed))
    return _tail(extreme, resamples)


def _tail(extreme: int, resamples: int) -> float:
    return (extreme + 1) / (resamples + 1)


def _percentile_interval(draws: NDArray[np.float64], level: float = 0.95) -> Interval:
    outside = 0.025 if level == 0.95 else (1 - level) / 2  # the same float as ever
    low, high = np.quantile(draws, [outside, 1 - outside])
    return Interval(float(low), float(high))


def _chunks(resamples: int, clusters: int) -> Iterator[int]:
    rows = max(1, CHUNK_ELEMENTS // clusters)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)
