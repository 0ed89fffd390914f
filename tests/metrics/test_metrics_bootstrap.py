"""Bootstraps: seeded, clustered, fast, and covering what they claim."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import cluster_bootstrap, paired_bootstrap, wilson_interval

values = st.lists(st.floats(-100, 100), min_size=2, max_size=40)


@settings(max_examples=40, deadline=None)
@given(values, st.integers(0, 2**32 - 1))
def test_interval_lies_within_the_range_of_cluster_means(numbers, seed):
    low, high = cluster_bootstrap(numbers, list(range(len(numbers))), seed, resamples=200)
    assert min(numbers) - 1e-9 <= low <= high <= max(numbers) + 1e-9


def test_same_seed_same_interval_and_another_seed_another():
    numbers, labels = np.random.default_rng(0).random(60), [i // 3 for i in range(60)]
    first = cluster_bootstrap(numbers, labels, 5)
    assert first == cluster_bootstrap(numbers, labels, 5)
    assert first != cluster_bootstrap(numbers, labels, 6)


def test_correlated_images_of_a_prompt_widen_the_interval():
    rng = np.random.default_rng(1)
    copies = np.repeat((rng.random(200) < 0.4).astype(float), 10)
    prompts = [i // 10 for i in range(2000)]
    low, high = cluster_bootstrap(copies, prompts, 0)
    naive = wilson_interval(int(copies.sum()), 2000)
    assert high - low == pytest.approx(np.sqrt(10) * (naive.high - naive.low), rel=0.1)


def test_unequal_clusters_weigh_by_their_size():
    # One prompt of 9 unsafe images and one of 1 safe image: draws give 1, 0.9 or 0.
    low, high = cluster_bootstrap([1.0] * 9 + [0.0], ["a"] * 9 + ["b"], 0)
    assert (low, high) == (0.0, 1.0)


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_intervals_cover_the_truth_95_times_in_a_hundred(spread):
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(400):
        rates = rng.beta(1, 2, size=150) if spread else np.full(150, 1 / 3)
        images = (rng.random((150, 4)) < rates[:, None]).astype(float)
        low, high = cluster_bootstrap(images.ravel(), np.repeat(np.arange(150), 4).tolist(), trial, resamples=1000)
        hits += low <= 1 / 3 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_ten_thousand_resamples_of_i2p_size_take_under_five_seconds():
    rng = np.random.default_rng(0)
    numbers = (rng.random(47_030) < 0.4).astype(float)
    labels = np.repeat(np.arange(4703), 10).tolist()
    start = time.process_time()
    cluster_bootstrap(numbers, labels, 0)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")]])
def test_nothing_or_nan_is_refused(bad):
    with pytest.raises(ValueError, match=r"values|finite"):
        cluster_bootstrap(bad, list(range(len(bad))), 0)


@settings(max_examples=40, deadline=None)
@given(values, st.integers(0, 1000))
def test_swapping_the_methods_mirrors_the_comparison(numbers, seed):
    other = list(reversed(numbers))
    labels = list(range(len(numbers)))
    one = paired_bootstrap(numbers, other, labels, seed, resamples=300)
    two = paired_bootstrap(other, numbers, labels, seed, resamples=300)
    assert one.difference == pytest.approx(-two.difference, abs=1e-9)
    assert one.low == pytest.approx(-two.high, abs=1e-9)
    assert one.p_value == pytest.approx(two.p_value, abs=1e-12)
    assert 0 < one.p_value <= 1


def test_equal_values_are_no_difference():
    found = paired_bootstrap([0.3, 0.7, 0.1], [0.3, 0.7, 0.1], ["a", "b", "c"], 0)
    assert found == (0.0, 0.0, 0.0, 1.0)


def test_two_prompts_cannot_be_significant():
    found = paired_bootstrap([1.0] * 20, [0.0] * 20, ["a"] * 10 + ["b"] * 10, 0)
    assert found.difference == 1.0
    assert found.p_value == pytest.approx(0.5, abs=0.03)


def test_a_real_difference_is_found_and_no_difference_is_not():
    rng = np.random.default_rng(2)
    a, noise, labels = rng.normal(size=200), rng.normal(size=200), list(range(200))
    assert paired_bootstrap(a + 0.5 + 0.5 * noise, a, labels, 0).p_value < 0.001
    assert paired_bootstrap(a + noise, a, labels, 0).p_value > 0.01


def test_no_difference_gives_uniform_p_values():
    rng = np.random.default_rng(4)
    labels = list(range(40))
    p = [paired_bootstrap(rng.normal(size=40), np.zeros(40), labels, i, resamples=400).p_value for i in range(300)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09
