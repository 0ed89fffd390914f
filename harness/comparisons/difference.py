"""One metric of two cells: how far they are apart, and which of them is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.records import Comparison
from harness.report.against import Adjusted

Compared = Callable[[float], Comparison | None]  # by the level of the interval


@dataclass(frozen=True)
class Difference:
    """One metric of two cells: `comparison.difference` = a - b. `again` makes the interval of another level.

    `paired` where it is of pairs of images; else of the two cells' own numbers, each of all its images.
    """

    metric: str
    higher_is_better: bool
    comparison: Comparison
    paired: bool
    again: Compared = field(repr=False, compare=False)

    @property
    def value_b(self) -> float | None:
        return self.comparison.before

    @property
    def value_a(self) -> float | None:
        before = self.comparison.before
        return None if before is None else before + self.comparison.difference

    @property
    def p_adjusted(self) -> float:
        """The p value by Holm's method in its family; NaN where it is in none."""
        return self.comparison.p_adjusted if isinstance(self.comparison, Adjusted) else math.nan

    @property
    def n_family(self) -> int:
        return self.comparison.n_family if isinstance(self.comparison, Adjusted) else 0


def better(one: Difference) -> str | None:
    """Return which of the two is better, `a` or `b`; None where the adjusted p is not below .05."""
    p, difference = one.p_adjusted, one.comparison.difference
    if math.isnan(p) or p >= 0.05 or difference == 0:
        return None
    return "a" if (difference > 0) == one.higher_is_better else "b"
