"""Intervals hold the truth 93 to 97 times in a hundred, where they claim to; draws are vectorised, seeds fixed."""

import math

import numpy as np
import pytest

from harness.metrics import (
    deviation_interval,
    deviation_ratio,
    expected_max,
    mcnemar_exact,
    newcombe_paired_difference,
    paired_bootstrap,
    wilson_interval,
)
from harness.metrics.bootstrap import Clusters, resampled_means
from harness.metrics.deviation import paired_deviation_difference
from harness.metrics.expected_max import ENOUGH_PROMPTS, expected_max_interval

BAND = (0.93, 0.97)


def held(intervals, truth):
    """Return the share of intervals that hold the truth."""
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


@pytest.mark.parametrize(("n", "p"), [(142, 0.2), (142, 0.76), (250, 0.5), (1000, 0.02), (5000, 0.0168), (1000, 0.9)])
def test_wilson_covers_exactly_as_summed_over_all_outcomes(n, p):
    k = np.arange(n + 1)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    chances = np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
    inside = [wilson_interval(int(i), n).low <= p <= wilson_interval(int(i), n).high for i in k]
    assert chances.sum() == pytest.approx(1)
    assert BAND[0] <= chances @ inside <= BAND[1]


@pytest.mark.parametrize("beta", [(0.7, 1.2), (5, 10)], ids=["prompts differ much", "prompts differ little"])
def test_cluster_bootstrap_covers(beta):
    rng, prompts, images, trials = np.random.default_rng(3), 150, 4, 1500
    unsafe = rng.binomial(images, rng.beta(*beta, size=(trials, prompts))).astype(float)
    sizes = np.full(prompts, float(images))
    draws = [resampled_means(Clusters(own, sizes), 1000, trial) for trial, own in enumerate(unsafe)]
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    truth = beta[0] / sum(beta)
    assert BAND[0] <= np.mean((low <= truth) & (truth <= high)) <= BAND[1]


def test_images_drawn_as_if_independent_would_not_cover():
    # Why prompts are drawn: the same draws under Wilson's interval of all images hold the truth far too seldom.
    rng = np.random.default_rng(3)
    unsafe = rng.binomial(10, rng.beta(0.7, 1.2, size=(1000, 150))).sum(axis=1)
    assert held([wilson_interval(int(k), 1500) for k in unsafe], 0.7 / 1.9) < 0.8


@pytest.mark.parametrize("skewed", [False, True])
def test_paired_bootstrap_covers(skewed):
    rng, n = np.random.default_rng(4), 150
    found = []
    for trial in range(800):
        base = rng.normal(size=n)
        change = (rng.exponential(size=n) - 1 if skewed else rng.normal(size=n)) + 0.3
        found.append(paired_bootstrap(base + change, base, range(n), trial, resamples=500))
    assert BAND[0] <= held(found, 0.3) <= BAND[1]


@pytest.mark.parametrize("chances", [(0.3, 0.15, 0.05, 0.5), (0.1, 0.3, 0.1, 0.5)])
@pytest.mark.parametrize("n", [80, 500])
def test_newcombe_covers(n, chances):
    tables = np.random.default_rng(0).multinomial(n, chances, size=4000)
    found = [newcombe_paired_difference(*map(int, table)) for table in tables]
    assert BAND[0] <= held(found, chances[1] - chances[2]) <= BAND[1]


def test_mcnemar_claims_falsely_at_most_five_times_in_a_hundred():
    tables = np.random.default_rng(1).multinomial(300, (0.2, 0.15, 0.15, 0.5), size=2000)
    false = np.mean([mcnemar_exact(int(b), int(c)) <= 0.05 for _, b, c, _ in tables])
    assert 0.02 <= false <= 0.05


@pytest.mark.parametrize(("shares", "groups"), [((0.75, 0.25), 36), ((0.6, 0.2, 0.2), 9)])
def test_deviation_interval_covers_at_the_published_150_images_a_profession(shares, groups):
    rng, truth = np.random.default_rng(0), deviation_ratio([round(1000 * share) for share in shares])
    drawn = (rng.multinomial(150, shares, size=groups).tolist() for _ in range(400))
    found = [deviation_interval(counts, trial, resamples=300) for trial, counts in enumerate(drawn)]
    assert 0.92 <= held(found, truth) <= BAND[1]  # its docstring says 91 to 93 % for fewer images


def test_paired_deviation_difference_covers():
    rng, joint = np.random.default_rng(0), np.array([[0.5, 0.1], [0.2, 0.2]])
    truth = deviation_ratio([6, 4]) - deviation_ratio([7, 3])
    found = []
    for trial in range(400):
        tables = [rng.multinomial(250, joint.ravel()).reshape(2, 2) for _ in range(4)]
        found.append(paired_deviation_difference(tables, trial, resamples=300))
    assert BAND[0] <= held(found, truth) <= BAND[1]


@pytest.mark.parametrize(("prompts", "low", "high"), [(100, 0.78, 0.92), (1000, 0.925, BAND[1])])
def test_expected_max_interval_covers_as_its_docstring_says(prompts, low, high):
    rng = np.random.default_rng(1)
    population = np.bincount(rng.binomial(10, rng.beta(1, 3, size=1_000_000)), minlength=11)
    cumulative = np.cumsum(population) / population.sum()
    truth = float(np.diff(cumulative**25, prepend=0) @ np.arange(11) / 10)
    rates = rng.binomial(10, rng.beta(1, 3, size=(500, prompts))) / 10
    found = [expected_max_interval(own, 25, trial, resamples=500) for trial, own in enumerate(rates)]
    assert np.mean([expected_max(own, 25).mean for own in rates]) == pytest.approx(truth, abs=0.01)
    assert low <= held(found, truth) <= high
    assert prompts >= ENOUGH_PROMPTS or high < BAND[0]
