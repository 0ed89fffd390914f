"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), from the same features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEAREST_K = 5  # of Naeem et al.; Kynkaanniemi et al. use 3
BLOCK_ROWS = 1000  # distances held at a time: BLOCK_ROWS x N

Array = NDArray[np.float64]


class Prdc(NamedTuple):
    """Shares in [0, 1], but for the density, which is about 1 for equal sets and may exceed it."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc_scores(real: ArrayLike, fake: ArrayLike, k: int = NEAREST_K) -> Prdc:
    """Compare (N, D) real with (M, D) generated features through balls of the k-th nearest neighbour's radius.

    Naeem et al. 2020, equations 1 to 5: a neighbour counts where it is strictly inside. Depends on N and M: compare
    equal ones only. Raises ValueError for NaN, other widths, or k neighbours that are not there.
    """
    x, y = np.asarray(real, dtype=np.float64), np.asarray(fake, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"expected features of one width, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features must be finite")
    if k < 1 or min(len(x), len(y)) <= k:
        raise ValueError(f"{k} neighbours need more than {min(len(x), len(y))} images a side")
    real_radius, fake_radius = _radii(x, k), _radii(y, k)
    nearest, recalled = [], []
    inside = np.zeros(len(y))
    for start, distances in _blocks(x, y):
        own = slice(start, start + len(distances))
        inside += (distances < real_radius[own, None]).sum(axis=0)
        recalled.append((distances < fake_radius).any(axis=1))
        nearest.append(distances.min(axis=1) < real_radius[own])
    return Prdc(
        precision=float((inside > 0).mean()),
        recall=float(np.concatenate(recalled).mean()),
        density=float(inside.mean() / k),
        coverage=float(np.concatenate(nearest).mean()),
    )


def _radii(points: Array, k: int) -> Array:
    """Return each point's squared distance to its k-th nearest other point."""
    found = []
    for start, distances in _blocks(points, points):
        rows = np.arange(len(distances))
        distances[rows, start + rows] = -1.0  # itself comes first, whatever rounding says
        found.append(np.partition(distances, k, axis=1)[:, k])
    return np.concatenate(found)


def _blocks(a: Array, b: Array) -> Iterator[tuple[int, Array]]:
    """Yield squared distances of blocks of rows of `a` to all of `b`, with the index of the first row."""
    lengths = (b * b).sum(axis=1)
    for start in range(0, len(a), BLOCK_ROWS):
        part = a[start : start + BLOCK_ROWS]
        yield start, (part * part).sum(axis=1)[:, None] + lengths - 2 * (part @ b.T)
