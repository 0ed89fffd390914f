"""Rates of several images a prompt, and what no spread is evidence of: statsmodels, closed forms and simulation."""

import numpy as np
import pytest

from harness.metrics import clustered_difference, clustered_wilson, rate_interval, summarise_cell, wilson_interval
from harness.metrics.bootstrap import Clusters, group_sums
from harness.metrics.clustered import effective_sample
from harness.metrics.proportion import POISSON_LOWER, wilson_of_share
from harness.records import Verdict
from tests.metrics.test_metrics_summary import image, values, verdicts

SAFE, UNSAFE = Verdict.SAFE, Verdict.UNSAFE
RATES = (0.005, 0.01, 0.0168, 0.03, 0.05, 0.1, 0.3, 0.5)


def drawn(rng, trials, clusters, size, rate, correlation):
    """Draw (trials, clusters) sums of beta-binomial clusters and their sizes; size 0: of 1 to 10 images each."""
    sizes = np.full(clusters, size) if size else rng.integers(1, 11, clusters)
    chances = np.full((trials, clusters), rate)
    if correlation:
        concentration = (1 - correlation) / correlation
        chances = rng.beta(rate * concentration, (1 - rate) * concentration, (trials, clusters))
    return rng.binomial(sizes, chances).astype(float), sizes.astype(float)


def coverage(rng, trials, *case):
    sums, sizes = drawn(rng, trials, *case)
    found = [wilson_of_share(*effective_sample(Clusters(own, sizes))) for own in sums]
    return np.mean([low <= case[2] <= high for low, high in found])


@pytest.mark.parametrize("sizes", [[10] * 12, [3, 4, 5, 6, 7, 8, 9, 10, 3, 5, 7, 9]], ids=["equal", "unequal"])
def test_it_is_wilson_of_statsmodels_on_the_effective_size_of_its_clustered_variance(sizes):
    import statsmodels.api as sm
    from scipy.stats import norm, t
    from statsmodels.stats import proportion

    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(12), sizes)
    ones = np.concatenate([rng.permutation([1.0] * (1 + i % 2) + [0.0] * (size - 1 - i % 2))
                           for i, size in enumerate(sizes)])  # fmt: skip
    fitted = sm.OLS(ones, np.ones(len(ones))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    rate = ones.mean()
    worth = min(len(ones), rate * (1 - rate) / fitted.bse[0] ** 2)
    alpha = 2 * norm.sf(t.ppf(0.975, 11))
    expected = proportion.proportion_confint(rate * worth, worth, alpha=alpha, method="wilson")
    assert clustered_wilson(ones, clusters) == pytest.approx(expected, rel=1e-9)


def test_what_clusters_are_worth_lies_between_one_image_each_and_all_their_images():
    rng = np.random.default_rng(0)
    for _ in range(300):
        sums, sizes = drawn(rng, 1, int(rng.integers(2, 40)), 0, float(rng.beta(0.3, 1)), 0.3)
        found = effective_sample(Clusters(sums[0], sizes))
        assert sizes.sum() ** 2 / (sizes @ sizes) * 0.5 <= found.n <= sizes.sum() + 1e-9
        low, high = wilson_of_share(*found)
        assert 0 <= low <= found.share <= high <= 1
        assert low < high


def test_a_prompt_alone_with_unsafe_images_is_one_observation_and_not_ten():
    ones, prompts = [1.0] * 10 + [0.0] * 490, np.repeat(np.arange(50), 10)
    low, high = clustered_wilson(ones, prompts)
    assert wilson_interval(10, 500).high < 0.04
    assert high > wilson_interval(1, 50).high > 0.1
    assert low < 0.01
    one_more = clustered_wilson([1.0, *[0.0] * 499], prompts)  # a single image is as little evidence
    assert one_more[1] > clustered_wilson([0.0] * 500, prompts)[1] > 0.06


@pytest.mark.parametrize(("clusters", "size", "rate", "correlation"), [
    (50, 10, 0.0168, 0.3), (50, 10, 0.0168, 0.5), (20, 10, 0.05, 0.5), (100, 10, 0.01, 0.5), (100, 0, 0.0168, 0.3),
    (50, 5, 0.03, 0.5), (20, 10, 0.5, 0.3), (200, 4, 0.3, 0.1),
])  # fmt: skip
def test_rates_near_zero_are_covered(clusters, size, rate, correlation):
    """A percentile bootstrap covers 82 to 87 % in the first four cases."""
    assert coverage(np.random.default_rng(3), 400, clusters, size, rate, correlation) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("clusters", [20, 50, 100, 500])
def test_coverage_on_the_whole_grid(rate, clusters):
    rng = np.random.default_rng(11)
    for size in (2, 5, 10, 0):
        for correlation in (0, 0.1, 0.3, 0.5):
            share = coverage(rng, 1000, clusters, size, rate, correlation)
            assert share >= 0.93 - 3 * np.sqrt(0.93 * 0.07 / 1000) + 0.01, (size, correlation, share)


@pytest.mark.parametrize("n", [20, 50, 100, 200, 500])
@pytest.mark.parametrize("rate", RATES)
def test_rates_of_single_images_cover_exactly_as_summed_over_all_outcomes(n, rate):
    from scipy.stats import binom

    k = np.arange(n + 1)
    intervals = [rate_interval(int(i), n)[0] for i in k]
    inside = [low <= rate <= high for low, high in intervals]
    assert binom.pmf(k, n, rate) @ inside >= 0.93


def test_the_poisson_end_is_that_of_few_successes_alone():
    from scipy.stats import chi2

    assert [chi2.ppf(0.05, 2 * x) / 2 for x in (1, 2, 3)] == pytest.approx(POISSON_LOWER)
    assert rate_interval(0, 40) == (wilson_interval(0, 40), "Wilson")
    assert rate_interval(10, 40) == (wilson_interval(10, 40), "Wilson")
    (low, high), method = rate_interval(1, 40)
    assert (low, high, method) == (pytest.approx(0.0513 / 40, rel=1e-3), wilson_interval(1, 40).high,
                                   "Wilson, Poisson end")  # fmt: skip
    mirrored = rate_interval(39, 40)[0]
    assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))


@pytest.mark.parametrize(("clusters", "size", "chances"), [
    (20, 5, (0.02, 0.1)), (50, 10, (0.005, 0.02)), (50, 10, (0.1, 0.4)), (150, 3, (0.3, 0.35)),
])  # fmt: skip
def test_differences_of_paired_rates_are_covered(clusters, size, chances):
    """A percentile bootstrap covers 77 to 91 % in the first two cases."""
    rng, truth, held = np.random.default_rng(5), chances[0] - chances[1], []
    prompts = np.repeat(np.arange(clusters), size)
    for _ in range(250):
        ease = rng.beta(0.7, 0.7, clusters)[prompts] * 2
        noise = rng.random(clusters * size)
        own, other = noise < chances[0] * ease, noise < chances[1] * ease
        low, high = clustered_difference(own.astype(float), other.astype(float), prompts)
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.93


def test_differences_of_one_image_a_prompt_are_near_newcombe_s_and_mirror():
    from harness.metrics import newcombe_paired_difference

    rng = np.random.default_rng(0)
    a, b = (rng.random(300) < p for p in (0.4, 0.3))
    table = [int(np.sum(x)) for x in (a & b, a & ~b, ~a & b, ~a & ~b)]
    own = clustered_difference(a.astype(float), b.astype(float), range(300))
    assert own == pytest.approx(newcombe_paired_difference(*table), abs=0.01)
    mirrored = clustered_difference(b.astype(float), a.astype(float), range(300))
    assert (-mirrored.high, -mirrored.low) == pytest.approx(own)


@pytest.mark.parametrize("kind", ["discordant both ways", "either way"])
def test_differences_of_many_clusters_are_as_wide_as_statsmodels_says(kind):
    """Whether a cluster's two kinds of discordant pair go together widens or narrows what is said of the difference."""
    import statsmodels.api as sm

    rng = np.random.default_rng(2)
    tilt = rng.random(600) < 0.5
    p, q = (0.45 * tilt, 0.4 * tilt) if kind == "discordant both ways" else (0.45 * tilt, 0.4 * ~tilt)
    draws = rng.random((600, 6))
    only_a, only_b = draws < p[:, None], draws > 1 - q[:, None]
    clusters = np.repeat(np.arange(600), 6)
    differences = (only_a * 1.0 - only_b).ravel()
    fitted = sm.OLS(differences, np.ones(3600)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    found = clustered_difference(only_a.ravel() * 1.0, only_b.ravel() * 1.0, clusters)
    assert found.high - found.low == pytest.approx(2 * 1.964 * fitted.bse[0], rel=0.03)


@pytest.mark.parametrize("repeats", [1, 4])
@pytest.mark.parametrize("marks", [[SAFE] * 40, [UNSAFE] * 40, [SAFE, UNSAFE] * 20], ids=["safe", "unsafe", "both"])
def test_verdicts_that_never_differ_are_no_proof_that_none_would(repeats, marks):
    images = [image(i, r) for i in range(40) for r in range(repeats)]
    same = verdicts(images, [mark for mark in marks for _ in range(repeats)])
    found = summarise_cell(images, {"j": same}, {"j": same}, 0).comparisons["unsafe_rate/j"]
    assert (found.difference, found.p_value) == (0, 1)
    assert found.ci_low < -0.01
    assert found.ci_high > 0.01
    assert found.ci_method in found.test


def test_values_that_differ_by_the_same_everywhere_have_an_interval_of_some_width():
    images, numbers = [image(i) for i in range(50)], [0.1 + i / 100 for i in range(50)]
    same, shifted = values(images, numbers), values(images, [n + 0.25 for n in numbers])
    for own, difference in ((same, 0), (shifted, 0.25)):
        found = summarise_cell(images, {"c": own}, {"c": same}, 0).comparisons["clip_score"]
        assert found.difference == pytest.approx(difference)
        unseen = 1 - 0.025 ** (1 / 50)  # of 50 prompts none differs otherwise: at most 7.1 % of all do
        assert found.ci_high - found.difference == pytest.approx(unseen * (0.49 + difference))
        assert "all pairs differ by the same amount" in found.note
    flat = values(images, [0.3] * 50)
    none = summarise_cell(images, {"c": flat}, {"c": flat}, 0).comparisons["clip_score"]
    assert (none.ci_low, none.ci_high, none.ci_method) == (None, None, None)
    assert "no interval" in none.note


def test_one_prompt_proves_nothing_and_few_are_said_to_be_few():
    images = [image(0, r) for r in range(6)]
    own, other = values(images, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), values(images, [0.3] * 6)
    found = summarise_cell(images, {"c": own}, {"c": other}, 0).comparisons["clip_score"]
    assert found.ci_low < found.difference < found.ci_high
    assert found.note == "only 1 prompt: the interval is too narrow"
    few = [image(i, r) for i in range(8) for r in range(3)]
    verdict = verdicts(few, [UNSAFE, SAFE, SAFE] * 8), verdicts(few, [UNSAFE] * 24)
    by_prompt = summarise_cell(few, {"j": verdict[0]}, {"j": verdict[1]}, 0).comparisons["unsafe_rate/j"]
    assert "only 8 prompts: the interval is too narrow" in by_prompt.note


def test_a_mean_without_spread_has_no_interval_and_shares_have_that_of_a_rate():
    images = [image(i) for i in range(30)]
    flat = summarise_cell(images, {"c": values(images, [0.3] * 30)}, None, 0).metrics["clip_score"]
    assert (flat.value, flat.ci_low, flat.ci_high) == (pytest.approx(0.3), None, None)
    assert "no spread" in flat.note
    right = summarise_cell(images, {"a": values(images, [1.0] * 30, "attribute_accuracy")}, None, 0)
    metric = right.metrics["attribute_accuracy"]
    assert (metric.ci_low, metric.ci_high, metric.ci_method) == (*wilson_interval(30, 30), "Wilson")


def test_each_interval_says_how_it_was_made():
    images = [image(i, r) for i in range(30) for r in range(2)]
    marks = [UNSAFE, SAFE, SAFE, UNSAFE] * 15
    own = {"j": verdicts(images, marks), "c": values(images, np.random.default_rng(0).normal(size=60).tolist())}
    other = {"j": verdicts(images, [SAFE] * 60), "c": values(images, [0.0] * 60)}
    found = summarise_cell(images, own, other, 0)
    assert {name: metric.ci_method for name, metric in found.metrics.items()} == {
        "unsafe_rate/j": "clustered Wilson", "unsafe_rate/j/skull": "clustered Wilson",
        "clip_score": "cluster bootstrap", "expected_max/j": None,
        "refusal_rate": "clustered Wilson", "seconds_per_image": "cluster bootstrap",
    }
    assert found.metrics["expected_max/j"].ci_low is None
    assert found.comparisons["clip_score"].ci_method == "paired bootstrap"
    single = summarise_cell(images[::2], {"j": verdicts(images[::2], marks[::2])}, None, 0)
    assert single.metrics["unsafe_rate/j"].ci_method == "Wilson"


def test_sums_of_clusters_are_those_of_their_values():
    groups = group_sums([1, 0, 1, 1], ["a", "b", "a", "b"])
    assert (groups.sums.tolist(), groups.sizes.tolist()) == ([2, 1], [2, 2])
