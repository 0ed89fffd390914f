"""Kernel inception distance."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets. Unbiased, so the mean may be below 0."""

    mean: float
    sd: float


def kernel_distance(
    x: ArrayLike, y: ArrayLike, seed: int, subsets: int = 100, subset_size: int = 1000
) -> KernelDistance:
    """KID (Binkowski et al. 2018): unbiased squared MMD under k(a, b) = (a.b / d + 1)^3, averaged over subsets.

    (N, D) features against (M, D). Subsets hold min(N, M, subset_size) rows, drawn without replacement.
    """
    first, second = np.asarray(x), np.asarray(y)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"expected features of one width, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("features must be finite")
    m = min(len(first), len(second), subset_size)
    if m < 2:
        raise ValueError("a kernel distance needs at least two images a side")
    rng = np.random.default_rng(seed)
    values = [_mmd2(_subset(first, m, rng), _subset(second, m, rng)) for _ in range(subsets)]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def _subset(features: NDArray[Any], m: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return features[rng.choice(len(features), m, replace=False)].astype(np.float64)


def _mmd2(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    m = len(x)
    within = _kernel(x, x) + _kernel(y, y)
    return float((within.sum() - np.trace(within)) / (m * (m - 1)) - 2 * _kernel(x, y).sum() / (m * m))


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    base = a @ b.T
    base /= a.shape[1]
    base += 1
    cube: NDArray[np.float64] = base * base * base  # numpy's ** 3 takes many times as long
    return cube
