"""First and second moments of features, streaming and mergeable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK_ROWS = 4096


@dataclass
class Moments:
    """n, sum and sum of outer products in float64: what a Frechet distance needs of any number of images.

    `update` adds a batch in place; `merge` joins two accumulators, in any order and grouping.
    """

    n: int
    sum: NDArray[np.float64]
    outer: NDArray[np.float64]

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Start with no image of `dim` features."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, features: ArrayLike) -> Moments:
        """Accumulate (N, D) features, a block of rows at a time: float64 copies stay small."""
        array = np.asarray(features)
        made = cls.empty(array.shape[1])
        for start in range(0, len(array), BLOCK_ROWS):
            made.update(array[start : start + BLOCK_ROWS])
        return made

    @property
    def dim(self) -> int:
        return int(self.sum.size)

    def update(self, features: ArrayLike) -> Moments:
        """Add (B, D) features in place; return self. Raises ValueError for NaN or another width."""
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise ValueError(f"expected (B, {self.dim}) features, got {batch.shape}")
        if not np.isfinite(batch).all():
            raise ValueError("features must be finite")
        self.n += len(batch)
        self.sum += batch.sum(axis=0)
        self.outer += batch.T @ batch
        return self

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together."""
        if other.dim != self.dim:
            raise ValueError(f"cannot merge {self.dim} and {other.dim} features")
        return Moments(self.n + other.n, self.sum + other.sum, self.outer + other.outer)

    def without(self, part: Moments) -> Moments:
        """Return the moments of what is left without a part of the images."""
        return Moments(self.n - part.n, self.sum - part.sum, self.outer - part.outer)

    def mean(self) -> NDArray[np.float64]:
        """Return the mean, (D,)."""
        if self.n < 1:
            raise ValueError("no images: no mean")
        return self.sum / self.n

    def covariance(self) -> NDArray[np.float64]:
        """Return the unbiased covariance, (D, D), as `numpy.cov` does."""
        if self.n < 2:
            raise ValueError("a covariance needs at least two images")
        mean = self.mean()
        return (self.outer - self.n * np.outer(mean, mean)) / (self.n - 1)
