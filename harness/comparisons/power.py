"""How many prompts it takes to tell two rates apart, by simulating the benchmark and the test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from harness.comparisons.outcomes import Verdicts, outcome_law
from harness.errors import InvalidValueError
from harness.metrics.proportion import wilson_interval

SIMULATIONS = 20_000
MOST = 10_000_000  # prompts; beyond, no benchmark tells the two apart
MCNEMAR = "McNemar exact"
SIGN_FLIP = "sign-flip by prompt"
TWO_RATES = "z test of two rates, clustered by prompt"

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Power:
    """The share of simulated benchmarks of this size whose test finds the difference, with its 95 % interval."""

    n_prompts: int
    power: float
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """How many prompts reach the power that was asked for, and the power of other sizes. `test` is what is simulated.

    With `unpaired` verdicts each of the two methods needs `needed.n_prompts` prompts of its own.
    """

    verdicts: Verdicts
    alpha: float
    wanted: float
    test: str
    needed: Power
    others: tuple[Power, ...]


def plan(of: Verdicts, wanted: float = 0.8, alpha: float = 0.05, sizes: tuple[int, ...] = (), seed: int = 0,
         simulations: int = SIMULATIONS) -> Plan:  # fmt: skip
    """Find the number of prompts by which the test tells the two rates apart with probability `wanted`.

    Raises InvalidValueError for rates that are equal, or correlations that they cannot have.
    """
    if of.rate_a == of.rate_b:
        raise InvalidValueError(f"both rates are {100 * of.rate_a:g} %.", "Give two that differ, such as 3% 5%.")
    law = outcome_law(of)
    needed = _needed(of, law, wanted, alpha, (seed, simulations))
    near = (*sizes, needed.n_prompts // 2, 2 * needed.n_prompts)
    others = [power_of(of, n, alpha, seed, simulations, law) for n in sorted(set(near)) if n > 1]
    return Plan(of, alpha, wanted, test_of(of), needed, tuple(others))


def test_of(of: Verdicts) -> str:
    """Name the test that such verdicts are compared by."""
    if of.correlation is None:
        return TWO_RATES
    return MCNEMAR if of.repeats == 1 else SIGN_FLIP


def power_of(of: Verdicts, n_prompts: int, alpha: float = 0.05, seed: int = 0, simulations: int = SIMULATIONS,
             law: NDArray[np.float64] | None = None) -> Power:  # fmt: skip
    """Simulate benchmarks of `n_prompts` prompts, and the test on each."""
    law = outcome_law(of) if law is None else law
    rng = np.random.default_rng([seed, n_prompts])
    found = int(np.count_nonzero(_rejected(of, law / law.sum(), n_prompts, alpha, rng, simulations)))
    return Power(n_prompts, found / simulations, *wilson_interval(found, simulations))


def _rejected(of: Verdicts, law: NDArray[np.float64], n: int, alpha: float, rng: np.random.Generator, simulations: int
              ) -> NDArray[np.bool_]:
    if of.correlation is None:
        arms = [rng.multinomial(n, side, size=simulations) for side in (law.sum(axis=1), law.sum(axis=0))]
        return two_rates_p(arms[0], arms[1]) <= alpha
    drawn = rng.multinomial(n, law.ravel(), size=simulations)
    if of.repeats == 1:
        return mcnemar_p(drawn[:, 2], drawn[:, 1]) <= alpha
    apart = np.subtract.outer(np.arange(of.repeats + 1), np.arange(of.repeats + 1)).ravel()
    return sign_flip_p(drawn, apart) <= alpha


def mcnemar_p(only_a: Counts, only_b: Counts) -> NDArray[np.float64]:
    """Return McNemar's exact p values, as `harness.metrics.mcnemar_exact` does one by one."""
    p: NDArray[np.float64] = np.minimum(1.0, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))
    return p


def sign_flip_p(counts: Counts, apart: Counts) -> NDArray[np.float64]:
    """Return p values of sign flips by prompt in their normal limit: |sum d| / sqrt(sum d^2).

    `counts` (simulations, kinds): how many prompts are of each kind; `apart` (kinds,): by how many images they differ.
    """
    spread = np.sqrt(counts @ (apart * apart))
    z = np.abs(counts @ apart) / np.maximum(spread, 1e-300)
    p: NDArray[np.float64] = np.where(spread > 0, 2 * norm.sf(z), 1.0)
    return p


def two_rates_p(a: Counts, b: Counts) -> NDArray[np.float64]:
    """Return p values of equal rates on different prompts, the variance between prompts about the pooled rate.

    `a`, `b` (simulations, repeats + 1): how many prompts have 0, 1, ... unsafe images.
    """
    unsafe, n = np.arange(a.shape[1]), a.sum(axis=1)
    repeats = a.shape[1] - 1
    first, second = (side @ unsafe / (n * repeats) for side in (a, b))
    pooled = (first + second) / 2
    off = (unsafe[None] / repeats - pooled[:, None]) ** 2
    variance = (a * off + b * off).sum(axis=1) / n**2
    z = np.abs(first - second) / np.sqrt(np.maximum(variance, 1e-300))
    p: NDArray[np.float64] = np.where(variance > 0, 2 * norm.sf(z), 1.0)
    return p


def _needed(of: Verdicts, law: NDArray[np.float64], wanted: float, alpha: float, draws: tuple[int, int]) -> Power:
    """Bisect the number of prompts, to half a per cent, around what the normal approximation says."""

    @cache
    def at(n: int) -> Power:
        return power_of(of, n, alpha, draws[0], draws[1], law)

    low, high = 1, _approximate(of, law, wanted, alpha)
    while high > MOST or at(high).power < wanted:
        if high > MOST:
            raise InvalidValueError(f"more than {MOST:,} prompts are needed.", "Rates this close are not told apart.")
        low, high = high, 2 * high
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle).power >= wanted else (middle, high)
    return at(high)


def _approximate(of: Verdicts, law: NDArray[np.float64], wanted: float, alpha: float) -> int:
    """Return (z_alpha + z_power)^2 var / difference^2, where the search begins."""
    counts = np.arange(of.repeats + 1)
    if of.correlation is None:
        sides = (law.sum(axis=1), law.sum(axis=0))
        variance = sum(float(side @ counts**2 - (side @ counts) ** 2) for side in sides)
    else:
        apart = np.subtract.outer(counts, counts)
        variance = float((law * apart**2).sum() - (law * apart).sum() ** 2)
    reach = norm.isf(alpha / 2) + norm.ppf(wanted)
    difference = of.repeats * (of.rate_a - of.rate_b)
    return max(4, math.ceil(reach**2 * variance / difference**2))

