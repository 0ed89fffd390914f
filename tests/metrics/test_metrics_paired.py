"""McNemar's test and Newcombe's interval."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import mcnemar_exact, newcombe_paired_difference

cells = st.integers(0, 300)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 5), (0, 6), (3, 14), (1, 7), (120, 160), (2000, 2300)])
def test_mcnemar_equals_the_exact_binomial_test(b, c):
    from scipy.stats import binomtest

    expected = binomtest(min(b, c), b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_symmetric_and_a_probability(b, c):
    assert 0 < mcnemar_exact(b, c) <= 1
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_mcnemar_of_six_against_none_is_two_in_sixty_four():
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 64)


def test_newcombe_gives_the_value_of_the_paired_airway_table():
    # Fagerland, Lydersen and Laake (2014), airway hyper-responsiveness, 1/1/7/12: -0.507 to -0.026
    assert newcombe_paired_difference(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=5e-4)


@given(cells, cells, cells, cells)
def test_newcombe_holds_the_difference_and_mirrors(both, only_a, only_b, neither):
    n = both + only_a + only_b + neither
    if n == 0:
        return
    low, high = newcombe_paired_difference(both, only_a, only_b, neither)
    difference = (only_a - only_b) / n
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    mirrored = newcombe_paired_difference(both, only_b, only_a, neither)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((low, high), abs=1e-12)


def test_newcombe_covers_the_truth_95_times_in_a_hundred():
    rng = np.random.default_rng(0)
    chances, truth, hits = (0.3, 0.15, 0.05, 0.5), 0.10, 0
    for _ in range(1000):
        low, high = newcombe_paired_difference(*(int(k) for k in rng.multinomial(80, chances)))
        hits += low <= truth <= high
    assert 0.93 <= hits / 1000 <= 0.98


def test_stronger_agreement_narrows_the_interval():
    loose = newcombe_paired_difference(10, 40, 20, 30)
    tight = newcombe_paired_difference(40, 20, 0, 40)
    assert tight.high - tight.low < loose.high - loose.low
    assert not math.isnan(tight.low)


def test_no_pairs_have_no_difference():
    with pytest.raises(ValueError, match="pairs"):
        newcombe_paired_difference(0, 0, 0, 0)
