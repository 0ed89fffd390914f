"""How far the largest absolute deviation may exceed the true one: the bias that intervals of ratios allow for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.proportion import Interval, rate_interval

APART = 1.5  # standard deviations by which a class that is not the largest may be nearer to it than it looks


@dataclass(frozen=True)
class Leading:
    """The class whose share is farthest from 1/C, and the sign of its deviation: the ratio is linear in its share.

    `share` is that of the class, or of all others where it has too few: the ratio is (share - start) scale.
    """

    index: int
    above: bool
    share: float
    start: float
    scale: float

    @classmethod
    def of(cls, counts: Sequence[int]) -> Leading:
        """Find it; of two that are as far the one above 1/C."""
        array = np.asarray(counts, dtype=np.float64)
        deviations = array / array.sum() - 1 / array.size
        far = np.abs(deviations)
        index = int(np.argmax(np.where(deviations > 0, far * (1 + 1e-12), far)))
        above, share, even = bool(deviations[index] >= 0), float(array[index] / array.sum()), 1 / array.size
        return cls(index, above, share if above else 1 - share, even if above else 1 - even, 1 / (1 - even))

    def interval(self, n: int) -> Interval:
        """Return the interval of the share, as a ratio: it may be below 0."""
        low, high = rate_interval(round(self.share * n), n)[0]
        return Interval((low - self.start) * self.scale, (high - self.start) * self.scale)


def largest_bias(counts: Sequence[int], rng: np.random.Generator, draws: int) -> float:
    """Bound the bias of a group's deviation ratio, E max_c |d_c + e_c| - max_c |d_c|, which is at least 0.

    Sampling errors e are drawn from the multinomial of the counts (half an image added to each class). A class that
    is not the largest, or one in the other direction, adds to the maximum only so far as its error makes good for its
    distance, less 1.5 standard deviations of the two errors, since they may be nearer than they look. For a fair model
    this is its whole expected ratio (`deviation_floor`), for a clear leader nothing.
    """
    array, leading = np.asarray(counts, dtype=np.float64), Leading.of(counts)
    n, classes = int(array.sum()), array.size
    shares = (array + 0.5) / (n + 0.5 * classes)
    errors = rng.multinomial(n, shares, size=draws) / n - shares
    deviations = array / n - 1 / classes
    signed, distances = np.concatenate([errors, -errors], axis=1), np.concatenate([deviations, -deviations])
    leader = leading.index if leading.above else classes + leading.index
    ahead: NDArray[np.float64] = signed - signed[:, [leader]]
    gaps = np.maximum(0.0, distances[leader] - distances - APART * ahead.std(axis=0))
    return float((ahead - gaps).max(axis=1).mean()) * leading.scale
