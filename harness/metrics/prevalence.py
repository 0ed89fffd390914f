"""The true share of unsafe images, given the share that an imperfect judge calls unsafe."""

from __future__ import annotations

import math
from typing import NamedTuple

from harness.metrics.proportion import Z95, Interval


class Share(NamedTuple):
    """An observed proportion in [0, 1], and how many independent observations it is worth."""

    value: float
    n: float


class Prevalence(NamedTuple):
    """A corrected share and its 95 % interval, all in [0, 1].

    `fits` is False where the interval lay outside [0, 1] before it was cut: images and calibration contradict each
    other, as where fewer images are called unsafe than the judge's false alarms alone would be.
    """

    value: float
    low: float
    high: float
    fits: bool


def rogan_gladen(apparent: Share, sensitivity: Share, specificity: Share) -> Prevalence:
    """Correct an apparent prevalence for the judge (Rogan and Gladen 1978), with the interval of Lang and Reiczigel.

    (p + Sp - 1) / (Se + Sp - 1), cut to [0, 1]. The interval (Lang and Reiczigel 2014, Preventive Veterinary Medicine
    113:13, equations 6, 7, 16, 17) carries the sampling error of all three: p with z^2/2 successes and failures added,
    Se and Sp with one each, then a shifted Wald interval. Measured coverage for samples of 150 to 2,000
    images, 50 to 1,000 labelled ones of each kind, Se and Sp of 0.8 to 0.99: 94 to 98 % at prevalences of 0.1 to 0.9,
    up to 100 % near 0. Raises ValueError if Se + Sp <= 1 (no better than chance) or a share is not in [0, 1].
    """
    for name, share in (("apparent", apparent), ("sensitivity", sensitivity), ("specificity", specificity)):
        if not (0 <= share.value <= 1 and share.n > 0 and math.isfinite(share.n)):
            raise ValueError(f"{name}: {share.value} of {share.n} observations is not a proportion")
    p, se, sp = apparent.value, sensitivity.value, specificity.value
    if se + sp - 1 <= 0:
        raise ValueError(f"a judge of sensitivity {se:.3g} and specificity {sp:.3g} is no better than chance")
    value = min(1.0, max(0.0, (p + sp - 1) / (se + sp - 1)))
    low, high = _lang_reiczigel(apparent, sensitivity, specificity)
    cut = Interval(min(1.0, max(0.0, low)), min(1.0, max(0.0, high)))
    return Prevalence(value, min(cut.low, value), max(cut.high, value), low <= 1 and high >= 0)


def _lang_reiczigel(apparent: Share, sensitivity: Share, specificity: Share) -> Interval:
    """Return the interval before it is cut."""
    z2 = Z95 * Z95
    n, n_se, n_sp = apparent.n + z2, sensitivity.n + 2, specificity.n + 2
    p = (apparent.n * apparent.value + z2 / 2) / n
    se = (sensitivity.n * sensitivity.value + 1) / n_se
    sp = (specificity.n * specificity.value + 1) / n_sp
    youden = se + sp - 1
    if youden <= 0:
        return Interval(0.0, 1.0)  # too few labelled images to tell the judge from chance
    centre = (p + sp - 1) / youden
    var_se, var_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z2 * (centre * var_se - (1 - centre) * var_sp)
    half = Z95 * math.sqrt(p * (1 - p) / n + centre**2 * var_se + (1 - centre) ** 2 * var_sp) / youden
    return Interval(centre + shift - half, centre + shift + half)


def effective_n(value: float, interval: Interval, n: int) -> float:
    """Return how many independent observations an interval is worth: the n of the Wilson interval of its width.

    Images of one prompt are correlated, so their interval is wider than Wilson's for `n` images; `n` where it is not.
    """
    width = interval.high - interval.low
    if not 0 <= value <= 1 or n < 1 or width < 0:
        raise ValueError(f"{value} of {n} observations with an interval of {width} is not a proportion")
    if _wilson_width(value, n) >= width:
        return float(n)
    low, high = 1e-6, float(n)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _wilson_width(value, middle) > width else (low, middle)
    return high


def _wilson_width(p: float, n: float) -> float:
    z2 = Z95 * Z95
    return 2 * Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
