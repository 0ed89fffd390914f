"""Rogan-Gladen, Lang and Reiczigel's interval, effective n, and Holm's adjustment."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.metrics import Interval, Share, effective_n, holm, rogan_gladen, wilson_interval

shares = st.floats(0, 1)
p_lists = st.lists(st.floats(0, 1), max_size=20)


def test_point_estimate_is_that_of_the_formula():
    # epiR's example: 23 of 150 positive, Se .96, Sp .89: 5.1 in 100
    found = rogan_gladen(Share(23 / 150, 150), Share(0.96, 1e9), Share(0.89, 1e9))
    assert found.value == pytest.approx((23 / 150 + 0.89 - 1) / 0.85)
    assert found.value == pytest.approx(0.051, abs=5e-4)
    assert found.low < found.value < found.high


def test_perfect_judge_known_without_error_leaves_the_agresti_coull_interval():
    found = rogan_gladen(Share(0.3, 200), Share(1.0, 1e12), Share(1.0, 1e12))
    n = 200 + 1.959963984540054**2
    p = (60 + 1.959963984540054**2 / 2) / n
    half = 1.959963984540054 * np.sqrt(p * (1 - p) / n)
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((p - half, p + half), abs=1e-9)


def test_fewer_labelled_images_give_a_wider_interval():
    widths = []
    for n in (50, 200, 1000, 100_000):
        found = rogan_gladen(Share(0.4, 1000), Share(0.85, n), Share(0.9, n))
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[-1]


@given(shares, shares, shares, st.integers(1, 5000), st.integers(1, 500))
def test_estimate_lies_in_its_interval_and_both_in_bounds(p, se, sp, n, m):
    assume(se + sp > 1 + 1e-9)
    found = rogan_gladen(Share(p, n), Share(se, m), Share(sp, m))
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(shares, st.floats(0.55, 1), st.floats(0.55, 1), st.integers(10, 5000), st.integers(10, 500))
def test_calling_safe_what_was_called_unsafe_mirrors_the_correction(p, se, sp, n, m):
    one = rogan_gladen(Share(p, n), Share(se, m), Share(sp, m))
    two = rogan_gladen(Share(1 - p, n), Share(sp, m), Share(se, m))
    assert (1 - two.value, 1 - two.high, 1 - two.low) == pytest.approx((one.value, one.low, one.high), abs=1e-9)


def test_a_judge_no_better_than_chance_corrects_nothing():
    with pytest.raises(ValueError, match="no better than chance"):
        rogan_gladen(Share(0.5, 100), Share(0.4, 50), Share(0.6, 50))
    with pytest.raises(ValueError, match="apparent"):
        rogan_gladen(Share(0.5, 0), Share(0.9, 50), Share(0.9, 50))


def test_fewer_unsafe_than_false_alarms_alone_is_said_not_to_fit():
    assert not rogan_gladen(Share(0.01, 5000), Share(0.9, 1000), Share(0.7, 1000)).fits
    assert rogan_gladen(Share(0.30, 5000), Share(0.9, 1000), Share(0.7, 1000)).fits


@pytest.mark.parametrize(("truth", "se", "sp"), [(0.3, 0.8, 0.95), (0.5, 0.9, 0.9), (0.3, 0.95, 0.8), (0.1, 0.9, 0.9)])
def test_interval_covers_the_true_prevalence_95_times_in_a_hundred(truth, se, sp):
    rng, n, m, trials = np.random.default_rng(0), 400, 100, 4000
    apparent = rng.binomial(n, truth * se + (1 - truth) * (1 - sp), trials) / n
    hits, alarms = rng.binomial(m, se, trials) / m, rng.binomial(m, sp, trials) / m
    judged = zip(apparent, hits, alarms, strict=True)
    found = [rogan_gladen(Share(a, n), Share(b, m), Share(c, m)) for a, b, c in judged]
    assert 0.93 <= np.mean([low <= truth <= high for _, low, high, _ in found]) <= 0.97


def test_ignoring_the_uncertainty_of_the_judge_would_not_cover():
    # What the interval is for: with Se and Sp taken as exact it holds the truth far too seldom.
    rng, n, m, trials = np.random.default_rng(0), 2000, 50, 1000
    apparent = rng.binomial(n, 0.3 * 0.8 + 0.7 * 0.1, trials) / n
    judged = list(zip(apparent, rng.binomial(m, 0.8, trials) / m, rng.binomial(m, 0.9, trials) / m, strict=True))
    exact = [rogan_gladen(Share(a, n), Share(b, 1e9), Share(c, 1e9)) for a, b, c in judged]
    honest = [rogan_gladen(Share(a, n), Share(b, m), Share(c, m)) for a, b, c in judged]
    assert np.mean([f.low <= 0.3 <= f.high for f in exact]) < 0.7
    assert np.mean([f.low <= 0.3 <= f.high for f in honest]) > 0.93


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_wilson_interval_is_worth_its_own_n(case):
    successes, n = case
    assert effective_n(successes / n, wilson_interval(successes, n), n) == pytest.approx(n, rel=1e-6)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 5000))
def test_effective_n_is_at_most_n_and_falls_with_width(p, width, n):
    found = effective_n(p, Interval(0.0, width), n)
    assert 0 < found <= n
    assert effective_n(p, Interval(0.0, width / 2), n) >= found - 1e-9


def test_holm_gives_the_textbook_values():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0


@given(p_lists, st.randoms())
def test_holm_keeps_order_bounds_and_place(p, random):
    found = holm(p)
    m = len(p)
    assert all(raw <= own <= min(1, m * raw) + 1e-12 for raw, own in zip(p, found, strict=True))
    assert all(found[i] <= found[j] for i in range(m) for j in range(m) if p[i] < p[j])
    order = list(range(m))
    random.shuffle(order)
    np.testing.assert_array_equal(holm([p[i] for i in order]), found[order])


def test_holm_claims_falsely_in_at_most_five_percent_of_families():
    rng = np.random.default_rng(0)
    families = rng.random((4000, 7))
    families[:, :2] *= 1e-4  # two of the seven are true
    false = [(holm(p)[2:] <= 0.05).any() for p in families]
    assert 0.035 <= np.mean(false) <= 0.055
    assert np.mean([(p[2:] <= 0.05).any() for p in families]) > 0.2


@pytest.mark.parametrize("bad", [[0.5, float("nan")], [1.2], [-0.1], [[0.1]]])
def test_holm_refuses_what_is_no_p_value(bad):
    with pytest.raises(ValueError, match="p-values"):
        holm(bad)
