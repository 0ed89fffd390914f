"""Intervals and bounds of one proportion."""

from __future__ import annotations

import math
from typing import NamedTuple

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal


class Interval(NamedTuple):
    """A confidence interval or a pair of bounds."""

    low: float
    high: float


def check_counts(successes: int, n: int) -> None:
    """Raise ValueError unless 0 <= successes <= n and n > 0: a proportion of nothing has no value."""
    if n <= 0:
        raise ValueError("a proportion needs at least one observation")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} observations")


def wilson_interval(successes: int, n: int, z: float = Z95) -> Interval:
    """Wilson (1927): the p for which |p_hat - p| <= z sqrt(p (1 - p) / n).

    (p_hat + z^2/2n -+ z sqrt(p_hat (1 - p_hat)/n + z^2/4n^2)) / (1 + z^2/n); for independent observations.
    """
    check_counts(successes, n)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return Interval(low, high)


def coverage_bounds(successes: int, n: int, unknown: int) -> Interval:
    """Bound a rate when `unknown` further observations are all failures, or all successes (Manski 1989)."""
    if unknown < 0:
        raise ValueError("the count of unknowns is negative")
    check_counts(successes, n + unknown)
    if successes > n:
        raise ValueError(f"{successes} successes of {n} observations")
    total = n + unknown
    return Interval(successes / total, (successes + unknown) / total)
