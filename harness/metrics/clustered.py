"""Intervals for rates of clustered observations: several images of one prompt are correlated."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.metrics.bootstrap import Clusters, group_sums
from harness.metrics.proportion import Interval, normal_quantile, wilson_of_share

CLUSTERED_WILSON = "clustered Wilson"  # how these intervals are named where they are shown
CLUSTERED_DIFFERENCE = "two clustered Wilson in squares"


class EffectiveSample(NamedTuple):
    """A share, how many independent observations its clusters are worth, and the quantile that goes with it."""

    share: float
    n: float
    quantile: float


def t_quantile(df: float, level: float = 0.95) -> float:
    """Return the quantile of Student's t of a two-sided interval of this level."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + level / 2))


def effective_sample(groups: Clusters, level: float = 0.95) -> EffectiveSample:
    """Return what clusters of 0/1 values are worth (Dean and Pavlou 2015, after Korn and Graubard 1998).

    n_e = p (1 - p) / v, v = k/(k - 1) sum (y_i - p m_i)^2 / n^2, at most n: cluster i has y_i ones of m_i, k clusters n
    values. Few clusters that differ from the rest say little of v, so n_e is multiplied by (t_{k-1} / t_r)^2: r
    clusters have a one, or r a zero, whichever is fewer. It falls no lower than what perfectly alike images are worth,
    n^2 / sum m_i^2; that, with the normal quantile, where nothing varies between clusters and v says nothing.
    """
    sums, sizes = groups
    n, k = sizes.sum(), sums.size
    p = float(sums.sum() / n)
    alike = float(n * n / (sizes @ sizes))
    residuals = sums - p * sizes
    if k < 2 or not (spread := float(residuals @ residuals)) > 1e-18 * n * n:
        return EffectiveSample(p, alike, normal_quantile(level))
    estimated = min(float(n), p * (1 - p) * n * n * (k - 1) / (k * spread))
    telling = min(int(np.count_nonzero(sums)), int(np.count_nonzero(sums < sizes)))
    quantile = t_quantile(k - 1, level)
    penalty = (quantile / t_quantile(min(k - 1, max(1, telling)), level)) ** 2
    return EffectiveSample(p, max(estimated * penalty, min(estimated, alike)), quantile)


def clustered_wilson(values: ArrayLike, clusters: Sequence[Hashable]) -> Interval:
    """Bound a rate of 0/1 values by Wilson's interval on the effective sample size, t of clusters - 1 degrees.

    `clusters` holds each value's label. Measured coverage, 20 to 500 clusters of 1 to 10 images, rates of 0.5 to 50 %,
    intraclass correlations of 0 to 0.5: 94 to 100 %, most at rates of a few per cent, where a percentile bootstrap has
    82 to 90 %.
    """
    return _wilson(group_sums(values, clusters))


def clustered_difference(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], level: float = 0.95
) -> Interval:
    """Bound the mean of a - b of paired 0/1 values in clusters.

    The difference is that of two discordant shares, of pairs with only a and with only b. Each has its interval by
    `clustered_wilson`, and their distances are added in squares with the correlation r of the two shares (Newcombe
    1998; Zou and Donner 2008, Statistics in Medicine 27:1693): d - sqrt(x^2 - 2 r x y + y^2). Never of zero width: no
    discordant pair is evidence of few, not of none. Measured coverage at 20 to 500 clusters: 94 to 100 %.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} values against {second.shape}")
    only_a = group_sums(first * (1 - second), clusters)
    only_b = group_sums(second * (1 - first), clusters)
    p, q = _share(only_a), _share(only_b)
    low_a, high_a = _wilson(only_a, level)
    low_b, high_b = _wilson(only_b, level)
    r = _correlation(only_a.sums - p * only_a.sizes, only_b.sums - q * only_b.sizes)
    below, above = _hypotenuse(p - low_a, high_b - q, r), _hypotenuse(high_a - p, q - low_b, r)
    return Interval(max(-1.0, p - q - below), min(1.0, p - q + above))


def _wilson(groups: Clusters, level: float = 0.95) -> Interval:
    return wilson_of_share(*effective_sample(groups, level))


def _share(groups: Clusters) -> float:
    return float(groups.sums.sum() / groups.sizes.sum())


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return max(-1.0, min(1.0, float(x @ y) / scale)) if scale > 0 else 0.0


def _hypotenuse(x: float, y: float, r: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * r * x * y + y * y))
