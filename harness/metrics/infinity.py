"""FID without its bias in the number of generated images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.metrics.frechet import frechet_distance
from harness.metrics.jackknife import GROUPS, jackknife_interval, left_out
from harness.metrics.moments import Moments
from harness.metrics.proportion import Interval

POINTS = 15  # as Chong and Forsyth
SMALLEST_SHARE = 0.1  # of the images, in the smallest subset: 5,000 of 50,000 in the paper


class FidInfinity(NamedTuple):
    """The intercept of FID against 1/n, and the sizes that the line was fitted to."""

    value: float
    sizes: tuple[int, ...]


def subset_sizes(n: int, dim: int, points: int = POINTS) -> tuple[int, ...]:
    """Return sizes evenly spaced from a tenth of `n`, but at least 2 `dim`, to `n`; empty for n below 4 `dim`.

    Near `dim` images and below, where the covariance is singular, FID is not linear in 1/n.
    """
    smallest = max(int(SMALLEST_SHARE * n), 2 * dim)
    return tuple(np.unique(np.linspace(smallest, n, points).astype(int)).tolist()) if n >= 2 * smallest else ()


def fid_infinity(
    features: ArrayLike, reference: Moments, more: Mapping[int, float] | None = None, points: int = POINTS
) -> FidInfinity:
    """Extrapolate FID to infinitely many generated images (Chong and Forsyth 2020, equation 4 and section 3.2).

    FID is fitted by a line in 1/n over subsets of (N, D) features in random order: each subset is the beginning of
    the next. `more` adds points of larger sets, FID by n. The bias of the reference's own n stays. Raises
    ValueError if N is below four times the width.
    """
    rows = np.asarray(features)
    sizes = subset_sizes(len(rows), reference.dim, points)
    if not sizes:
        raise ValueError(f"{len(rows)} images are too few for a line: {4 * reference.dim} are needed")
    mean, covariance = reference.mean(), reference.covariance()
    by_size: dict[int, float] = {}
    moments, done = Moments.empty(reference.dim), 0
    for size in sizes:
        moments.update(rows[done:size])
        by_size[size], done = frechet_distance(moments.mean(), moments.covariance(), mean, covariance), size
    by_size |= more or {}
    return FidInfinity(intercept(by_size), tuple(sorted(by_size)))


def fid_infinity_interval(value: float, features: ArrayLike, reference: Moments) -> Interval | None:
    """Return an interval of FID-infinity for other generated images: `jackknife_interval` over 20 groups of them.

    Lines without a group have 3 points. None if there are too few images for a line without a group.
    """
    rows = np.asarray(features)
    if not subset_sizes(len(rows) - math.ceil(len(rows) / GROUPS), reference.dim):
        return None
    return jackknife_interval(value, left_out(rows, lambda part: fid_infinity(part, reference, points=3).value))


def intercept(points: Mapping[int, float]) -> float:
    """Return where the least-squares line of FID against 1/n meets 1/n = 0."""
    inverse: NDArray[np.float64] = 1 / np.array(list(points), dtype=np.float64)
    values = np.array(list(points.values()))
    slope = np.cov(inverse, values)[0, 1] / inverse.var(ddof=1)
    return float(values.mean() - slope * inverse.mean())
