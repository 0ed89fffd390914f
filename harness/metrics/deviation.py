"""Deviation ratio: how far attribute counts are from uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.metrics.bootstrap import PairedDifference
from harness.metrics.folded import Leading, largest_bias
from harness.metrics.paired import newcombe_paired_difference
from harness.metrics.proportion import Interval

Counts = Sequence[Sequence[int]]
SIMULATIONS = 20_000
BIAS_DRAWS = 2_000
DEVIATION_METHOD = "Wilson by category, less bias"  # how these intervals are named where they are shown
DEVIATION_DIFFERENCE = "Newcombe by category, less bias"


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


def deviation_interval(groups: Counts, seed: int, resamples: int = BIAS_DRAWS) -> Interval:
    """Bound the mean deviation ratio, images of a group being independent.

    The ratio of a group is linear in the share of its leading class, whose Wilson interval is known; distances to the
    ends are added in squares over groups (Zou and Donner 2008, Statistics in Medicine 27:1693). Taking the largest of
    absolute deviations makes the ratio too high by an amount between 0 and `largest_bias`: the lower end allows for
    all of it, the upper one for none. `resamples` errors are drawn for it. Measured coverage, 1 to 36 groups of 30 to
    150 images, two and three classes, true ratios from 0 to 0.99: 94 to 100 %; below 0.2 it is too wide rather than too
    narrow, since a small ratio cannot be told from the bias.
    """
    leading = [Leading.of(counts) for counts in groups]
    value = mean_deviation_ratio(groups)
    ends = [(deviation_ratio(c), one.interval(sum(c))) for c, one in zip(groups, leading, strict=True)]
    rng = np.random.default_rng(seed)
    bias = float(np.mean([largest_bias(counts, rng, resamples) for counts in groups]))
    below, above = _mean_halves([(ratio - end.low, end.high - ratio) for ratio, end in ends])
    return Interval(max(0.0, value - bias - below), min(1.0, value + above))


def _mean_halves(halves: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return how far a mean may be off below and above where its independent terms may be by these distances.

    A single term's ends are its own. A mean of several is as likely to be off to either side, while a term near 1 seems
    to have no room above: the larger counts for both.
    """
    below, above = (math.sqrt(sum(half * half for half in side)) / len(halves) for side in zip(*halves, strict=True))
    return (below, above) if len(halves) == 1 else (max(below, above), max(below, above))


def paired_deviation_difference(
    tables: Sequence[NDArray[np.int64]], seed: int, resamples: int = 10_000
) -> PairedDifference:
    """Compare the mean deviation ratio of two methods on the same images.

    One (C, C) table per group: entry (i, j) counts images that method a shows as class i and method b as class j. The
    interval is Newcombe's of the two leading classes' shares in each group, added in squares over groups, widened
    downward by the largest bias of a's ratio and upward by that of b's: where one of them is fair its ratio is too
    high and the other's is not. The p-value swaps a and b image by image (randomisation test).
    Measured coverage of the interval, a fair method against one of 0.6 included: 94 to 100 %.
    """
    rng, bias_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    swapped, value = np.zeros(resamples), 0.0
    biases, halves = [], []
    draws = min(resamples, BIAS_DRAWS)
    for table in tables:
        c = table.shape[0]
        value += _table_difference(table[None].astype(np.float64))[0]
        kept = rng.binomial(table, 0.5, size=(resamples, c, c))
        swapped += _table_difference((kept + np.swapaxes(table - kept, 1, 2)).astype(np.float64))
        biases.append([largest_bias(table.sum(axis=axis).tolist(), bias_rng, draws) for axis in (1, 0)])
        halves.append(_halves(table))
    extreme = int(np.count_nonzero(np.abs(swapped) >= abs(value) - 1e-12))
    difference = float(value) / len(tables)
    bias_a, bias_b = np.mean(biases, axis=0).tolist()
    below, above = _mean_halves(halves)
    low, high = max(-1.0, difference - bias_a - below), min(1.0, difference + bias_b + above)
    return PairedDifference(difference, low, high, (extreme + 1) / (resamples + 1))


def _halves(table: NDArray[np.int64]) -> tuple[float, float]:
    """Return how far below and above the difference of a group's ratios Newcombe's interval reaches."""
    a, b = Leading.of(table.sum(axis=1).tolist()), Leading.of(table.sum(axis=0).tolist())
    rows = np.isin(np.arange(len(table)), [a.index], invert=not a.above)
    columns = np.isin(np.arange(len(table)), [b.index], invert=not b.above)
    both, only_a = int(table[rows][:, columns].sum()), int(table[rows][:, ~columns].sum())
    only_b, neither = int(table[~rows][:, columns].sum()), int(table[~rows][:, ~columns].sum())
    low, high = newcombe_paired_difference(both, only_a, only_b, neither)
    difference = a.share - b.share
    return (difference - low) * a.scale, (high - difference) * a.scale


def _table_difference(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratios(tables.sum(axis=2)) - _ratios(tables.sum(axis=1))


def _ratios(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = counts.shape[1]
    shares = counts / counts.sum(axis=1, keepdims=True)
    ratios: NDArray[np.float64] = np.abs(shares - 1 / classes).max(axis=1) / (1 - 1 / classes)
    return ratios
