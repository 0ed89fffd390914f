"""A number over several trainings: mean, spread, and an interval that includes both sources of variation.

Trainings share prompts and noise, so the sampling error of their mean is that of one training, S^2 / K of K trainings
comes on top, and neither hides the other. Limits of the two are joined by MOVER (Zou and Donner 2008, Statistics in
Medicine 27, 1693): l = m - sqrt((m - l_s)^2 + (t S / sqrt K)^2), with l_s the sampling limit at m and t of K - 1
degrees of freedom. The sampling limit of a single training also holds the part of its error that the mean averages
out, which makes the interval a little wide. With one training there is no S, and no such interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, t

SMALLEST_P = 1e-15


@dataclass(frozen=True)
class OfOne:
    """A value of one training with the limits of its 95 % sampling interval; None if it has none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class OfSeveral:
    """The mean of K trainings, its 95 % interval, and the values' range; `sd` is their standard deviation."""

    mean: float
    low: float | None
    high: float | None
    least: float
    most: float
    sd: float
    below: float  # half-widths of the sampling interval at the mean
    above: float
    k: int


def of_several(trainings: Sequence[OfOne], level: float = 0.95) -> OfSeveral:
    """Join at least two trainings. The interval is None if a training has none."""
    values = np.array([one.value for one in trainings])
    if len(values) < 2:
        raise ValueError(f"{len(values)} trainings have no spread")
    mean, sd, k = float(values.mean()), float(values.std(ddof=1)), len(values)
    below, above = (_half([side(one) for one in trainings]) for side in (_below, _above))
    half_width = float(t.ppf(0.5 + level / 2, k - 1)) * sd / math.sqrt(k)
    low = None if below is None else mean - math.hypot(below, half_width)
    high = None if above is None else mean + math.hypot(above, half_width)
    return OfSeveral(mean, low, high, float(values.min()), float(values.max()), sd, below or 0.0, above or 0.0, k)


def with_sampling(values: Sequence[float], below: float | None, above: float | None) -> OfSeveral:
    """Join values of several trainings whose mean has this sampling error, measured over all of them at once.

    `below` and `above` are the distances of its limits. Several seeds of noise make the sampling error of their mean
    smaller than that of each; prompts, which they share, do not.
    """
    return of_several([OfOne(value, None if below is None else value - below, None if above is None else value + above)
                       for value in values])


def without_training(values: Sequence[float], below: float | None, above: float | None) -> OfSeveral:
    """Return the mean of seeds that differ in noise alone: their spread is sampling error, which the limits hold.

    `sd` is 0, since none of it comes on top.
    """
    mean = float(np.mean(values))
    low, high = (None if below is None else mean - below), (None if above is None else mean + above)
    return OfSeveral(mean, low, high, min(values), max(values), 0.0, below or 0.0, above or 0.0, len(values))


def p_value(joined: OfSeveral, p_values: Sequence[float]) -> float:
    """Return the two-sided p value of no difference: one minus the level at which the interval reaches zero.

    Never below the median of the trainings' `own` p values, whose tests are exact where the interval is approximate.
    """
    floor = float(np.median(p_values)) if len(p_values) else math.nan
    side = joined.below if joined.mean > 0 else joined.above
    se = side / float(norm.ppf(0.975))
    if joined.mean == 0 or (se == 0 and joined.sd == 0):
        return floor if math.isnan(floor) else max(floor, 1.0 if joined.mean == 0 else 0.0)
    spread = joined.sd / math.sqrt(joined.k)

    def past_zero(p: float) -> float:
        between = spread * float(t.isf(p / 2, joined.k - 1)) if spread else 0.0
        return math.hypot(se * float(norm.isf(p / 2)), between) - abs(joined.mean)

    smallest = SMALLEST_P if past_zero(SMALLEST_P) <= 0 else float(brentq(past_zero, SMALLEST_P, 1.0))
    return max(smallest, floor) if not math.isnan(floor) else smallest


def _below(one: OfOne) -> float | None:
    return None if one.low is None or math.isnan(one.low) else one.value - one.low


def _above(one: OfOne) -> float | None:
    return None if one.high is None or math.isnan(one.high) else one.high - one.value


def _half(widths: Sequence[float | None]) -> float | None:
    known = [width for width in widths if width is not None]
    return sum(known) / len(known) if len(known) == len(widths) else None
