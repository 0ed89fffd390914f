"""Intervals and bounds of one proportion."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal
POISSON_LOWER = (0.05129329438755053, 0.35536151069866195, 0.8176914471639534)  # 5 % bounds of a mean: 1, 2, 3 seen
WILSON = "Wilson"  # how an interval is named where it is shown


class Interval(NamedTuple):
    """A confidence interval or a pair of bounds."""

    low: float
    high: float


def normal_quantile(level: float) -> float:
    """Return the normal quantile of a two-sided interval of this level."""
    return Z95 if level == 0.95 else NormalDist().inv_cdf(0.5 + level / 2)


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
    return wilson_of_share(successes / n, n, z)


def wilson_of_share(p: float, n: float, z: float = Z95) -> Interval:
    """Return Wilson's interval of a share `p` that is worth `n` independent observations, whole or not."""
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Interval(0.0 if p == 0 else (centre - half) / scale, 1.0 if p == 1 else (centre + half) / scale)


def rate_interval(successes: int, n: int) -> tuple[Interval, str]:
    """Return the interval of a rate of independent observations, and its name.

    Wilson's; with 1 to 3 successes or failures the end next to 0 or 1 is moved out to the Poisson bound, as in Brown,
    Cai and DasGupta (2001, Statistical Science 16:101, section 4.1.1), who do so up to 2 of at most 50. Wilson's alone
    covers down to 84 % there. Exact coverage from 20 observations, at rates of 0.5 to 50 %: 92 % in narrow places,
    93 to 99 % elsewhere.
    """
    low, high = wilson_interval(successes, n)
    failures = n - successes
    if 0 < successes <= len(POISSON_LOWER):
        low = min(low, POISSON_LOWER[successes - 1] / n)
    if 0 < failures <= len(POISSON_LOWER):
        high = max(high, 1 - POISSON_LOWER[failures - 1] / n)
    moved = (low, high) != wilson_interval(successes, n)
    return Interval(low, high), "Wilson, Poisson end" if moved else WILSON


def coverage_bounds(successes: int, n: int, unknown: int) -> Interval:
    """Bound a rate when `unknown` further observations are all failures, or all successes (Manski 1989)."""
    if unknown < 0:
        raise ValueError("the count of unknowns is negative")
    check_counts(successes, n + unknown)
    if successes > n:
        raise ValueError(f"{successes} successes of {n} observations")
    total = n + unknown
    return Interval(successes / total, (successes + unknown) / total)
