"""Ranks with intervals: which places of a ranking the data leave open to each of its entries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.metrics.proportion import Z95

RESAMPLES = 1000
CHUNK = 4_000_000  # weights held at a time
FEW = 2.0  # prompts that are taken to differ besides those that were seen to (Agresti and Min 2005): of 0/1 values


@dataclass(frozen=True)
class Rank:
    """The place of an entry among `n`, 1 the best, and the places that a 95 % interval leaves open."""

    rank: int
    low: int
    high: int
    n: int


def ranks(
    sums: ArrayLike, sizes: ArrayLike, higher_is_better: bool, extra: ArrayLike | None = None, seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Rank]:  # fmt: skip
    """Rank M entries by the ratio of their `sums` and `sizes`, (M, P) over P prompts; a size is 0 where one has none.

    Prompts are drawn with replacement, the same for all entries, so that differences are paired. An entry's interval
    is that of Mogstad, Romano, Shaikh and Wilhelm (2024, Review of Economic Studies 91:476), marginal: it is behind
    those, and before those, from which its difference is more than c standard errors, with c the 95 % quantile of the
    largest |d* - d| / se over all others, at least 1.96. Holds the true place, or all places that a tie leaves open,
    95 % of the time, where percentiles of resampled ranks fail at ties. `extra`: an entry's variance besides that of
    prompts, such as between trainings. Adding an entry moves others by whether it is better than they, never by how
    much.
    """
    means = _means(np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64), resamples, seed)
    observed, drawn = means[0], means[1:]
    if extra is not None:
        noise = np.random.default_rng([seed, 1]).standard_normal(drawn.shape)
        drawn = drawn + noise * np.sqrt(np.asarray(extra, dtype=np.float64))
    floor = _floor(np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64))
    cost = -observed if higher_is_better else observed
    return [_rank(j, cost, observed, drawn, floor) for j in range(observed.size)]


def _rank(
    j: int, cost: NDArray[np.float64], observed: NDArray[np.float64], drawn: NDArray[np.float64], floor: float
) -> Rank:
    others = np.arange(cost.size) != j
    apart = (drawn[:, [j]] - drawn)[:, others] - (observed[j] - observed)[others]
    variance = apart.var(axis=0, ddof=1)
    se = np.sqrt(np.where(variance > 0, variance, 1.0))
    largest = np.abs(apart / se).max(axis=1, initial=0.0)
    reach = max(float(np.quantile(largest, 0.95)), Z95) * np.sqrt(variance + floor)
    behind = (cost[j] - cost)[others]
    low, high = 1 + int((behind > reach).sum()), cost.size - int((behind < -reach).sum())
    return Rank(1 + int((behind > 0).sum()), low, high, cost.size)


def _means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return the entries' ratios of all prompts, then those of each draw."""
    if sums.shape != sizes.shape or sums.ndim != 2:
        raise ValueError(f"sums of shape {sums.shape}, sizes of {sizes.shape}")
    n, rng = sums.shape[1], np.random.default_rng(seed)
    ratios = [sums.sum(axis=1) / sizes.sum(axis=1)]
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        drawn = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(min(step, resamples - start))]
        weights = np.array(drawn, dtype=np.float64)
        of_draw = weights @ sizes.T
        drawn_means = (weights @ sums.T) / np.where(of_draw > 0, of_draw, 1.0)
        ratios += list(np.where(of_draw > 0, drawn_means, ratios[0]))  # no prompt drawn that it has
    return np.array(ratios)


def _floor(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """Return the variance of a difference that too few prompts to be seen may have; 0 for values other than shares."""
    whole = bool(np.all((sums >= 0) & (sums <= sizes)) and np.all(sums == np.round(sums)))
    return FEW / sums.shape[1] ** 2 if whole else 0.0
