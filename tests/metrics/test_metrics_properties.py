"""What must hold of any correct bootstrap, accumulator or distance, whatever the numbers."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness.metrics
from harness.metrics import (
    Moments,
    cluster_bootstrap,
    kernel_distance,
    mcnemar_exact,
    newcombe_paired_difference,
    paired_bootstrap,
)
from harness.metrics.bootstrap import Clusters, _kinds, _means_by_kind, resampled_means
from harness.metrics.deviation import paired_deviation_difference

NAMED = (
    "wilson_interval", "cluster_bootstrap", "mcnemar_exact", "newcombe_paired_difference", "paired_bootstrap",
    "expected_max", "deviation_ratio", "deviation_floor", "attack_success_rate", "automatic_safety_rate", "holm",
    "rogan_gladen", "frechet_distance", "kernel_distance", "coverage_bounds",
)  # fmt: skip
numbers = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=40)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", NAMED)
def test_every_statistic_can_be_imported_by_name_and_is_documented(name):
    function = getattr(harness.metrics, name)
    assert name in harness.metrics.__all__
    assert function.__doc__.splitlines()[0].rstrip().endswith((".", ":"))


def test_differences_are_the_first_minus_the_second():
    a, b = [0.9, 0.8, 0.7] * 9, [0.1, 0.4, 0.2] * 9
    assert paired_bootstrap(a, b, range(27), 0).low > 0
    assert newcombe_paired_difference(10, 30, 2, 10).low > 0
    table = np.array([[40, 40], [0, 0]])  # the first shows one class only, the second both alike
    assert paired_deviation_difference([table] * 3, 0).low > 0


def labelled(values, per_prompt=2):
    return [i // per_prompt for i in range(len(values))]


@settings(max_examples=40, deadline=None)
@given(numbers, seeds, st.sampled_from([0.25, 2.0, 8.0]), st.integers(-20, 20))
def test_scaled_and_shifted_values_scale_and_shift_the_interval(values, seed, scale, shift):
    labels = labelled(values)
    low, high = cluster_bootstrap(values, labels, seed, resamples=200)
    moved = cluster_bootstrap([scale * v + shift for v in values], labels, seed, resamples=200)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=24, max_size=80), seeds)
def test_swapping_two_methods_mirrors_the_comparison_of_their_verdicts(pairs, seed):
    a, b = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    one = paired_bootstrap(a, b, range(len(a)), seed, resamples=200)
    two = paired_bootstrap(b, a, range(len(a)), seed, resamples=200)
    assert (one.difference, one.low, one.high) == pytest.approx((-two.difference, -two.high, -two.low), abs=1e-12)
    assert one.p_value == two.p_value


@pytest.mark.parametrize(("only_a", "only_b"), [(30, 15), (12, 12), (9, 2)])
def test_flipped_signs_of_verdicts_give_mcnemars_p(only_a, only_b):
    a = [1.0] * only_a + [0.0] * (200 - only_a)
    b = [0.0] * only_a + [1.0] * only_b + [0.0] * (200 - only_a - only_b)
    found = paired_bootstrap(a, b, range(200), 0)
    assert found.p_value == pytest.approx(mcnemar_exact(only_a, only_b), abs=0.01)


@settings(max_examples=40, deadline=None)
@given(numbers, seeds)
def test_names_of_prompts_do_not_matter(values, seed):
    labels = labelled(values)
    renamed = [f"prompt {-label}" for label in labels]
    own = cluster_bootstrap(values, labels, seed, resamples=200)
    assert cluster_bootstrap(values, renamed, seed, resamples=200) == own


@settings(max_examples=40, deadline=None)
@given(numbers, seeds, st.randoms())
def test_order_of_the_images_of_a_prompt_does_not_matter(values, seed, random):
    a, b = values, values[::-1]
    pairs = list(zip(a, b, strict=True))
    random.shuffle(pairs)
    one = paired_bootstrap(a, b, ["p"] * len(a), seed, resamples=50)
    two = paired_bootstrap([x for x, _ in pairs], [y for _, y in pairs], ["p"] * len(a), seed, resamples=50)
    assert one == pytest.approx(two, abs=1e-9)


def test_order_of_prompts_moves_the_interval_by_no_more_than_another_seed():
    rng = np.random.default_rng(0)
    values, labels = rng.random(600), np.repeat(np.arange(200), 3)
    own = cluster_bootstrap(values, labels.tolist(), 0)
    order = rng.permutation(600)
    mixed = cluster_bootstrap(values[order], labels[order].tolist(), 0)
    seeded = [cluster_bootstrap(values, labels.tolist(), seed) for seed in range(1, 9)]
    spread = np.ptp([interval.low for interval in seeded])
    assert abs(mixed.low - own.low) <= 2 * spread
    assert abs(mixed.high - own.high) <= 2 * spread


def test_counting_kinds_draws_the_same_law_as_drawing_prompts():
    rng = np.random.default_rng(1)
    groups = Clusters(rng.integers(0, 5, 300).astype(float), rng.integers(4, 6, 300).astype(float))
    drawn = rng.integers(0, 300, size=(20_000, 300))
    one_by_one = groups.sums[drawn].sum(axis=1) / groups.sizes[drawn].sum(axis=1)
    by_kind = _means_by_kind(_kinds(groups), 20_000, 0)
    assert by_kind.mean() == pytest.approx(one_by_one.mean(), abs=5 * one_by_one.std() / np.sqrt(20_000))
    assert by_kind.std() == pytest.approx(one_by_one.std(), rel=0.03)
    levels = [0.025, 0.25, 0.75, 0.975]
    assert np.quantile(by_kind, levels) == pytest.approx(np.quantile(one_by_one, levels), abs=0.1 * one_by_one.std())


@pytest.mark.parametrize("kind", ["verdicts", "values", "values, prompts of unequal size"])
def test_ten_thousand_resamples_of_4703_prompts_of_ten_images_take_under_five_seconds(kind):
    rng = np.random.default_rng(0)
    n = 47_030 - (3 if "unequal" in kind else 0)
    a, b = rng.random((2, n))
    if kind == "verdicts":
        a, b = (a < 0.4).astype(float), (b < 0.3).astype(float)
    labels = np.repeat(np.arange(4703), 10)[:n].tolist()
    start = time.process_time()
    found = paired_bootstrap(a, b, labels, 0)  # an interval and a test: twice the draws
    assert time.process_time() - start < 5
    assert found == paired_bootstrap(a, b, labels, 0)
    means = resampled_means(Clusters(np.ones(4703), np.ones(4703)), 10, 0)
    assert means.tolist() == [1.0] * 10


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=3), st.integers(0, 10_000))
def test_moments_merge_in_any_grouping_and_order(sizes, seed):
    rng = np.random.default_rng(seed)
    a, b, c = (Moments.of(rng.normal(size=(n, 5)).astype(np.float32)) for n in sizes)
    left, right, other = a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)
    for found in (right, other, Moments.empty(5).merge(left), left.merge(Moments.empty(5))):
        assert found.n == left.n == sum(sizes)
        np.testing.assert_allclose(found.sum, left.sum, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.outer, left.outer, rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10_000))
def test_kernel_distance_of_whole_sets_is_symmetric_and_ignores_order(n, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 4)), rng.normal(size=(n, 4)) + 0.5
    own = kernel_distance(x, y, 0, subsets=1, subset_size=n).mean
    assert kernel_distance(y, x, 1, subsets=1, subset_size=n).mean == pytest.approx(own, rel=1e-9, abs=1e-12)
    mixed = kernel_distance(rng.permutation(x), rng.permutation(y), 2, subsets=1, subset_size=n).mean
    assert mixed == pytest.approx(own, rel=1e-9, abs=1e-12)
