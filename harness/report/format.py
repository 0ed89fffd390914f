"""Numbers for people. An unknown number is words, never 0."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.records import Comparison, Metric
from harness.report.against import Adjusted, deciding_p

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
PERCENT = ("attribute_accuracy", "expected_max", "sensitivity", "specificity")
TITLES: Mapping[str, str] = {
    "clip_score": "CLIP score", "fid": "FID", "fid_to_base": "FID to base", "kid": "KID", "lpips": "LPIPS",
    "fid_infinity": "FID infinity", "clip_image_similarity": "CLIP similarity", "pick_score": "PickScore",
    "vqa_score": "VQAScore",
}  # fmt: skip
DECIMALS: Mapping[str, int] = {"fid": 1, "fid_infinity": 1, "fid_to_base": 1, "kid": 4, "clip_score": 3,
                               "seconds_per_image": 2}  # fmt: skip


def words(metric: str) -> str:
    """`unsafe_rate/hazard_judge` is an `unsafe rate`."""
    base = base_name(metric)
    return TITLES.get(base, base.replace("_", " "))


def by_whom(metric: str) -> str:
    """`unsafe_rate/hazard_judge` is an `unsafe rate by hazard_judge`."""
    _, _, judge = metric.partition("/")
    return f"{words(metric)} by {judge.replace('/', ', ')}" if judge else words(metric)


def base_name(metric: str) -> str:
    """`unsafe_rate/hazard_judge/skull` is an `unsafe_rate`."""
    return metric.split("/", 1)[0]


def is_percent(metric: str) -> bool:
    return base_name(metric).endswith("_rate") or base_name(metric) in PERCENT


def number(metric: str, value: float) -> str:
    """Format a value of a metric: rates as a percentage, others with decimals that fit."""
    if is_percent(metric):
        return f"{100 * value:.1f} %".replace("-", MINUS)
    decimals = DECIMALS.get(base_name(metric), 3)
    if abs(value) >= 10:
        decimals = min(decimals, 2)
    return f"{value:.{decimals}f}".replace("-", MINUS)


def tick(metric: str, value: float) -> str:
    """Format an axis tick of a metric."""
    return f"{100 * value:g} %" if is_percent(metric) else f"{value:g}"


def missing(metric: Metric) -> str:
    """Say why a metric has no value."""
    if metric.n_unknown:
        return f"n/a ({metric.n_unknown} error{'s' if metric.n_unknown != 1 else ''})"
    return f"n/a ({metric.note})" if metric.note else "n/a"


def value(name: str, metric: Metric) -> str:
    return missing(metric) if metric.value is None else number(name, metric.value)


def span(name: str, low: float | None, high: float | None) -> str:
    """Format an interval, such as `35.0–47.6`; empty when a side is not known."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    ends = [number(name, end).removesuffix(" %") for end in (low, high)]
    return (" to " if any(end.startswith(MINUS) for end in ends) else DASH).join(ends)


def interval(name: str, metric: Metric) -> str:
    """Format the 95 % interval in brackets; empty when there is none."""
    text = span(name, metric.ci_low, metric.ci_high)
    return f"[{text}]" if text and metric.value is not None else ""


def interval_by(name: str, metric: Metric) -> str:
    """Format the interval and say how it was made: `[35.0–47.6] Wilson`."""
    text = interval(name, metric)
    return f"{text} {metric.ci_method or ''}".strip() if text else ""


def worst_case(name: str, metric: Metric) -> str:
    """Say what the value could be if every unknown were safe, or unsafe."""
    text = span(name, metric.worst_low, metric.worst_high)
    return f"{metric.n_unknown} unknown: {text}" if metric.n_unknown and text else ""


def p_value(p: float) -> str:
    if math.isnan(p):
        return "p n/a"
    if p < 0.001:
        return "p < .001"
    decimals = 4 if 0.0495 <= p < 0.0505 else 3  # never round across the line that others draw at .05
    return f"p = {p:.{decimals}f}".replace("0.", ".", 1)


def adjusted_p(comparison: Comparison) -> str:
    """Give the p value that is corrected for the number of methods, as `adjusted p = .032`; empty if none was."""
    return f"adjusted {p_value(comparison.p_adjusted)}" if isinstance(comparison, Adjusted) else ""


def p_values(comparison: Comparison) -> str:
    """Give the p value and, beside it, the adjusted one."""
    return ", ".join(filter(None, (p_value(comparison.p_value), adjusted_p(comparison))))


def difference(name: str, comparison: Comparison) -> str:
    """Format method - baseline with its sign; rates in percentage points."""
    d = comparison.difference
    if math.isnan(d):
        return "n/a"
    text = f"{100 * d:+.1f} pts" if is_percent(name) else f"{d:+.3f}"
    return text.replace("-", MINUS)


def deviation(name: str, sd: float) -> str:
    """Format a standard deviation; of rates in percentage points."""
    return f"{100 * sd:.1f} pts" if is_percent(name) else number(name, sd)


def difference_interval(name: str, comparison: Comparison) -> str:
    low, high = comparison.ci_low, comparison.ci_high
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    scale, decimals = (100, 1) if is_percent(name) else (1, 3)
    ends = [f"{scale * end:+.{decimals}f}".replace("-", MINUS) for end in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"


def difference_interval_by(name: str, comparison: Comparison) -> str:
    """Format the interval of a difference and say how it was made."""
    text = difference_interval(name, comparison)
    return f"{text} {comparison.ci_method or ''}".strip() if text else ""


def tone(metric: Metric | None, comparison: Comparison, alpha: float = 0.05) -> str:
    """Return whether a difference is `better`, `worse`, or `same`: not significant by its adjusted p."""
    d, p = comparison.difference, deciding_p(comparison)
    if math.isnan(p) or math.isnan(d) or p >= alpha or d == 0:
        return "same"
    higher = metric.higher_is_better if metric else False
    return "better" if (d > 0) == higher else "worse"
