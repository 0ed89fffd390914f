"""Numbers of several trainings: the interval holds the variation of prompts and that between trainings."""

from __future__ import annotations

import math
from statistics import mean, stdev

import numpy as np
import pytest
from scipy import stats

from harness.metrics.proportion import wilson_interval
from harness.metrics.trainings import OfOne, of_several, p_value


def test_without_sampling_error_it_is_students_interval():
    values = [0.31, 0.44, 0.52, 0.37]
    joined = of_several([OfOne(value, value, value) for value in values])
    low, high = stats.t.interval(0.95, 3, loc=mean(values), scale=stdev(values) / 2)
    assert (joined.low, joined.high) == pytest.approx((low, high), rel=1e-12)
    assert (joined.mean, joined.least, joined.most) == pytest.approx((mean(values), 0.31, 0.52))
    assert p_value(joined, []) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)


def test_trainings_that_agree_have_the_interval_of_one():
    joined = of_several([OfOne(0.4, 0.3, 0.55)] * 3)
    assert (joined.low, joined.high) == pytest.approx((0.3, 0.55), rel=1e-12)
    normal = of_several([OfOne(0.4, 0.4 - 1.96 * 0.1, 0.4 + 1.96 * 0.1)] * 3)
    assert p_value(normal, []) == pytest.approx(2 * stats.norm.sf(4), rel=1e-3)


def test_the_interval_reaches_zero_where_p_is_5_percent():
    """p is what inverts the interval: found here by moving the mean until its limit is zero."""
    values = np.array([-0.1, -0.2, -0.35])
    limit = of_several([OfOne(v, v - 0.08, v + 0.12) for v in values]).high
    moved = values - limit
    joined = of_several([OfOne(v, v - 0.08, v + 0.12) for v in moved])
    assert joined.high == pytest.approx(0, abs=1e-12)
    assert p_value(joined, []) == pytest.approx(0.05, abs=1e-6)


def test_p_is_never_below_that_of_a_usual_training():
    joined = of_several([OfOne(v, v - 0.01, v + 0.01) for v in (0.3, 0.3, 0.3)])
    assert p_value(joined, [0.02, 0.04, 0.5]) == 0.04
    assert p_value(of_several([OfOne(0.0, -0.1, 0.1)] * 2), [1.0, 1.0]) == 1.0


def test_a_training_without_an_interval_leaves_none():
    joined = of_several([OfOne(0.3, None, None), OfOne(0.4, 0.3, 0.5)])
    assert joined.low is None and joined.high is None and joined.mean == pytest.approx(0.35)


def test_one_training_has_no_spread():
    with pytest.raises(ValueError, match="1 trainings"):
        of_several([OfOne(0.3, 0.2, 0.4)])


def coverage(between: float, prompts: float, own: float, k: int, n: int = 100, rounds: int = 1500) -> float:
    """Return how often the interval holds the mean over all trainings and prompts.

    A value is the mean over n prompts, whose difficulties all trainings share, and of what each training does with
    each prompt; its sampling interval is Student's over the prompts of that training.
    """
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(rounds):
        shift = rng.normal(0, between, (k, 1))
        made = shift + rng.normal(0, prompts, (1, n)) + rng.normal(0, own, (k, n))
        half = 1.984 * made.std(axis=1, ddof=1) / math.sqrt(n)
        joined = of_several([OfOne(m, m - h, m + h) for m, h in zip(made.mean(axis=1), half, strict=True)])
        assert joined.low is not None and joined.high is not None
        hits += joined.low <= 0 <= joined.high
    return hits / rounds


@pytest.mark.parametrize(("between", "prompts", "own"), [
    (0.0, 0.4, 0.3), (0.02, 0.4, 0.3), (0.05, 0.4, 0.3), (0.1, 0.4, 0.3), (0.1, 0.05, 0.05), (0.05, 0.0, 0.4),
])  # fmt: skip
@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_interval_covers(between, prompts, own, k):
    assert coverage(between, prompts, own, k) >= 0.94


def test_the_interval_of_one_training_does_not_cover_the_variation_between_trainings():
    """What a board claims that shows one training: the interval of its prompts alone, here of a rate."""
    rng, rate = np.random.default_rng(1), lambda x: 1 / (1 + np.exp(-x))
    truth = float(rate(rng.normal(-0.5, 0.8, 400_000)).mean())
    own = [wilson_interval(int(rng.binomial(100, rate(rng.normal(-0.5, 0.8)))), 100) for _ in range(500)]
    assert np.mean([low <= truth <= high for low, high in own]) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.375, 0.5])
@pytest.mark.parametrize("k", [3, 5])
def test_rates_cover_with_wilsons_interval(rate, k):
    """Verdicts of 48 prompts: logits of prompts shared by trainings, a shift of each training."""
    rng, logit, n = np.random.default_rng(2), math.log(rate / (1 - rate)), 48
    for between in (0.0, 0.4, 0.8):
        draws = rng.normal(0, 1, 400_000) + rng.normal(0, between, 400_000) + logit
        truth, hits = float((1 / (1 + np.exp(-draws))).mean()), 0
        for _ in range(2000):
            p = 1 / (1 + np.exp(-(logit + rng.normal(0, 1, (1, n)) + rng.normal(0, between, (k, 1)))))
            counts = (rng.random((k, n)) < p).sum(axis=1)
            joined = of_several([OfOne(c / n, *wilson_interval(int(c), n)) for c in counts])
            hits += joined.low <= truth <= joined.high
        assert hits / 2000 >= 0.94
