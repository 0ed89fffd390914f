"""Claims that two cells differ by no more than a margin, decided by the interval of their difference.

Not inferior: the whole 95 % interval is on the good side of the margin, which is a one-sided test at 2.5 %. Equivalent:
the whole 90 % interval lies within the margins, which is the two one-sided tests at 5 % (Schuirmann 1987).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.comparisons.difference import Difference
from harness.errors import InvalidValueError
from harness.report.format import is_percent

NONINFERIOR, EQUIVALENT = "noninferior", "equivalent"
LEVELS = {NONINFERIOR: 0.95, EQUIVALENT: 0.90}
TESTS = {NONINFERIOR: "one-sided test at 2.5 %", EQUIVALENT: "two one-sided tests at 5 %"}


@dataclass(frozen=True)
class Claim:
    """One claim. `margin` is in the metric's units, a rate's as a share; `holds` is None where nothing decides it.

    `test` names what decides, or says why nothing does.
    """

    kind: str
    metric: str
    margin: float
    level: float
    low: float | None
    high: float | None
    holds: bool | None
    test: str


def claim(kind: str, difference: Difference, margin: float) -> Claim:
    """Decide one claim. Where no interval of its level can be made, that of 95 % decides, which is stricter."""
    comparison = difference.again(LEVELS[kind])
    level = LEVELS[kind] if comparison else 0.95
    low, high = _ends(comparison or difference.comparison)
    holds = None
    if low is not None and high is not None:
        holds = _within(low, high, margin, kind, difference.higher_is_better)
    test = TESTS[kind] if level == LEVELS[kind] else "two one-sided tests at 2.5 %"
    return Claim(kind, difference.metric, margin, level, low, high, holds, test)


def undecided(kind: str, metric: str, margin: float, why: str) -> Claim:
    """Return a claim that nothing decides, since the metric could not be compared."""
    return Claim(kind, metric, margin, LEVELS[kind], None, None, None, why)


def _within(low: float, high: float, margin: float, kind: str, higher_is_better: bool) -> bool:
    if kind == EQUIVALENT:
        return -margin < low and high < margin
    return low > -margin if higher_is_better else high < margin


def _ends(comparison: object) -> tuple[float | None, float | None]:
    ends = (getattr(comparison, "ci_low", None), getattr(comparison, "ci_high", None))
    low, high = (None if end is None or math.isnan(end) else float(end) for end in ends)
    return low, high


def read_margin(setting: str, metric: str, value: object) -> float:
    """Return a margin in the metric's own units: of rates it is given in percentage points."""
    try:
        margin = float(str(value))
    except ValueError:
        margin = math.nan
    if not (math.isfinite(margin) and margin > 0):
        raise InvalidValueError(f"{setting}={metric}={value}: a margin above 0 is needed.",
                                f"In {'percentage points' if is_percent(metric) else 'units of the metric'}.")
    return margin / 100 if is_percent(metric) else margin


def read_margins(setting: str, given: Mapping[str, object]) -> dict[str, float]:
    """Check a mapping of metrics to margins."""
    return {metric: read_margin(setting, metric, value) for metric, value in given.items()}


def margin_text(metric: str, margin: float) -> str:
    """Write a margin in the units in which it is given."""
    return f"{100 * margin:g} pts" if is_percent(metric) else f"{margin:g}"
