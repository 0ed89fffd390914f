"""Two numbers with intervals and no pairs, such as FID: their difference, with an interval from the two."""

from __future__ import annotations

import math
import re
from statistics import NormalDist

from harness.metrics.proportion import Z95, normal_quantile
from harness.records import Comparison, Metric

BIASED = ("fid", "fid_to_base")  # too high by an amount that falls with the number of images
REFERENCE = re.compile(r"reference .+? [0-9a-f]{12} \(n=\d+\)")
MOVER = "MOVER of both intervals"
TEST = "normal test on both intervals"
NOTE = "not paired: too wide rather than too narrow where the two share prompts"


def unpaired_comparison(a: Metric, b: Metric, label: str, level: float = 0.95) -> Comparison | None:
    """Compare a - b as if independent; None where one of the two has no interval.

    Limits by MOVER (Zou and Donner 2008, Statistics in Medicine 27:1693): l = d - sqrt((a - l_a)^2 + (u_b - b)^2). The
    p value is that of the normal whose 95 % interval has the half-width towards zero. Other levels scale with the
    normal quantile.
    """
    if a.value is None or b.value is None or None in (a.ci_low, a.ci_high, b.ci_low, b.ci_high):
        return None
    assert a.ci_low is not None and a.ci_high is not None and b.ci_low is not None and b.ci_high is not None
    difference = a.value - b.value
    below = math.hypot(a.value - a.ci_low, b.ci_high - b.value)
    above = math.hypot(a.ci_high - a.value, b.value - b.ci_low)
    scale = normal_quantile(level) / Z95
    p = _p_value(difference, below if difference > 0 else above)
    return Comparison(label, difference, difference - scale * below, difference + scale * above, p, min(a.n, b.n), TEST,
                      before=b.value, ci_method=MOVER, note=NOTE)  # fmt: skip


def sets_apart(name: str, a: Metric, b: Metric) -> str:
    """Say why two numbers of whole sets are not comparable: other references, or other counts where these bias them."""
    references = [REFERENCE.search(metric.note or "") for metric in (a, b)]
    named = [match[0] if match else None for match in references]
    if None not in named and named[0] != named[1]:
        return f"the two have other reference sets: {named[0]} and {named[1]}"
    if name.partition("/")[0] in BIASED and a.n != b.n:
        return f"of {a.n:,} and {b.n:,} images: its bias depends on their number"
    return ""


def _p_value(difference: float, half_width: float) -> float:
    if difference == 0:
        return 1.0
    if half_width == 0:
        return math.nan
    return 2 * NormalDist().cdf(-abs(difference) / half_width * Z95)
