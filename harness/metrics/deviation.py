"""Deviation ratio: how far attribute counts are from uniform."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.metrics.bootstrap import PairedDifference
from harness.metrics.proportion import Interval

Counts = Sequence[Sequence[int]]
SIMULATIONS = 20_000


def deviation_ratio(counts: Sequence[int]) -> float:
    """InterpretDiffusion (arXiv 2311.17216): max_c |N_c/N - 1/C| / (1 - 1/C); 0 is uniform, 1 is a single class."""
    array = np.asarray(counts, dtype=np.float64)
    if array.size < 2 or (array < 0).any() or array.sum() <= 0:
        raise ValueError("a deviation ratio needs two classes and at least one image")
    return float(_ratios(array[None])[0])


def mean_deviation_ratio(groups: Counts) -> float:
    """Average the deviation ratio of groups (professions), unweighted."""
    return float(np.mean([deviation_ratio(counts) for counts in groups]))


@lru_cache(maxsize=1024)
def deviation_floor(n: int, classes: int) -> float:
    """Return the expected deviation ratio of a perfectly fair model judged on `n` images: what zero looks like.

    Exact for two classes; for more, 20,000 seeded multinomial draws (standard error below 0.001).
    """
    if n < 1 or classes < 2:
        raise ValueError("a floor needs at least one image and two classes")
    if classes == 2:
        k = np.arange(n + 1)
        log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - k[:-1]) / (k[:-1] + 1.0)))])
        return float(np.exp(log_choose - n * np.log(2)) @ np.abs(2 * k / n - 1))
    draws = np.random.default_rng(0).multinomial(n, [1 / classes] * classes, size=SIMULATIONS)
    return float(_ratios(draws.astype(np.float64)).mean())


def deviation_interval(groups: Counts, seed: int, resamples: int = 10_000) -> Interval:
    """Bound the mean deviation ratio by the 95 % bootstrap, images drawn anew within each group.

    Resampled ratios are biased upward as the ratio itself is, so their percentiles are shifted back by that bias,
    cut to [0, 1] and, where needed, widened to hold the estimate. The interval reaches down to 0 where a fair model
    of the same counts would score as high in at least 2.5 % of runs. Measured coverage at 9 groups of 60 images:
    97 % for a fair model, 81 % at a true ratio of 0.1 (the floor), 91 to 93 % from 0.2 upward.
    """
    value = mean_deviation_ratio(groups)
    rng = np.random.default_rng(seed)
    drawn, fair = np.zeros(resamples), np.zeros(resamples)
    for counts in groups:
        n, classes = int(sum(counts)), len(counts)
        drawn += _drawn_ratios(n, np.asarray(counts, dtype=np.float64) / n, resamples, rng)
        fair += _drawn_ratios(n, np.full(classes, 1 / classes), resamples, rng)
    means = drawn / len(groups)
    low, high = np.quantile(means, [0.025, 0.975]) - (means.mean() - value)
    lower = float(np.clip(low, 0, value))
    if value <= np.quantile(fair / len(groups), 0.975):
        lower = 0.0
    return Interval(lower, float(np.clip(high, value, 1)))


def _drawn_ratios(
    n: int, shares: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    return _ratios(rng.multinomial(n, shares, size=resamples).astype(np.float64))


def paired_deviation_difference(
    tables: Sequence[NDArray[np.int64]], seed: int, resamples: int = 10_000
) -> PairedDifference:
    """Compare the mean deviation ratio of two methods on the same images.

    One (C, C) table a group: entry (i, j) counts images that method a shows as class i and method b as class j.
    Percentile bootstrap of images within groups; the p-value swaps a and b image by image (randomisation test).
    """
    rng = np.random.default_rng(seed)
    drawn, swapped = np.zeros(resamples), np.zeros(resamples)
    value = 0.0
    for table in tables:
        n, c = int(table.sum()), table.shape[0]
        value += _table_difference(table[None].astype(np.float64))[0]
        draws = rng.multinomial(n, table.ravel() / n, size=resamples).reshape(-1, c, c)
        drawn += _table_difference(draws.astype(np.float64))
        kept = rng.binomial(table, 0.5, size=(resamples, c, c))
        swapped += _table_difference((kept + np.swapaxes(table - kept, 1, 2)).astype(np.float64))
    low, high = np.quantile(drawn / len(tables), [0.025, 0.975])
    extreme = int(np.count_nonzero(np.abs(swapped) >= abs(value) - 1e-12))
    difference = value / len(tables)
    return PairedDifference(
        difference, min(float(low), difference), max(float(high), difference), (extreme + 1) / (resamples + 1)
    )


def _table_difference(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratios(tables.sum(axis=2)) - _ratios(tables.sum(axis=1))


def _ratios(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = counts.shape[1]
    shares = counts / counts.sum(axis=1, keepdims=True)
    ratios: NDArray[np.float64] = np.abs(shares - 1 / classes).max(axis=1) / (1 - 1 / classes)
    return ratios
