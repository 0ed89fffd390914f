"""Sums over images of what is counted in each: a mean per image, times the number of images."""

from __future__ import annotations

from dataclasses import replace

from harness.records import Comparison, Metric

IN_TOTAL = ("detections",)  # metrics that are such sums


def in_total(mean: Metric) -> Metric:
    """Return the sum over its n images of a mean, its interval too: that of as many other images of such prompts.

    Images that are unknown are in no sum, and have no worst case: nothing bounds what they show.
    """
    numbers = (mean.value, mean.ci_low, mean.ci_high)
    value, low, high = (None if number is None else number * mean.n for number in numbers)
    note = "; ".join(filter(None, (f"sum over {mean.n} images", mean.note)))
    return replace(mean, value=value, ci_low=low, ci_high=high, worst_low=None, worst_high=None, note=note)


def comparison_in_total(comparison: Comparison) -> Comparison:
    """Return the difference of sums over the pairs for a difference of means."""
    n = comparison.n_pairs
    low, high, before = (None if number is None else number * n
                         for number in (comparison.ci_low, comparison.ci_high, comparison.before))
    return replace(comparison, difference=comparison.difference * n, ci_low=low, ci_high=high, before=before)
