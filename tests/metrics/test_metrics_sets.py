"""FID, KID and the accumulator behind them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import (
    Moments,
    ReferenceSet,
    Reservoir,
    fid_infinity,
    frechet_distance,
    kernel_distance,
    prdc_scores,
    set_metrics,
)
from harness.metrics.infinity import intercept, subset_sizes
from harness.metrics.sets import PRDC_NAMES, SET_METRICS, no_set_metrics


def draw(seed, n, d=6, shift=0.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ np.random.default_rng(99).normal(size=(d, d)) + shift).astype(np.float32)


def fid_of(x, y):
    a, b = Moments.of(x), Moments.of(y)
    return frechet_distance(a.mean(), a.covariance(), b.mean(), b.covariance())


def test_moments_are_those_of_numpy():
    x = draw(0, 50)
    found = Moments.of(x)
    np.testing.assert_allclose(found.mean(), x.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance(), np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 1000))
def test_any_split_streams_and_merges_to_the_same_moments(sizes, seed):
    x = draw(seed, sum(sizes) + 2)
    parts = np.split(x, np.cumsum(sizes))
    streamed = Moments.empty(6)
    for part in parts:
        streamed.update(part)
    left = Moments.empty(6)
    for part in parts:
        left = left.merge(Moments.of(part))
    right = Moments.empty(6)
    for part in reversed(parts):
        right = Moments.of(part).merge(right)
    whole = Moments.of(x)
    for other in (streamed, left, right):
        assert other.n == whole.n
        np.testing.assert_allclose(other.covariance(), whole.covariance(), rtol=1e-9, atol=1e-9)


def test_merging_leaves_both_sides_alone():
    a, b = Moments.of(draw(0, 5)), Moments.of(draw(1, 5))
    before = a.sum.copy()
    a.merge(b).update(draw(2, 5))
    np.testing.assert_array_equal(a.sum, before)


@pytest.mark.parametrize("bad", [np.full((2, 6), np.nan), np.zeros((2, 5)), np.zeros(6)])
def test_moments_refuse_nan_and_other_widths(bad):
    with pytest.raises(ValueError, match="features"):
        Moments.empty(6).update(bad)


def test_fid_of_the_same_set_is_zero_and_of_a_shift_its_square():
    x = np.random.default_rng(0).normal(size=(500, 64))
    assert fid_of(x, x) == pytest.approx(0, abs=1e-9)
    assert fid_of(x, x + 0.1) == pytest.approx(0.64, abs=1e-9)


def test_fid_of_diagonal_gaussians_is_the_closed_form():
    s1, s2 = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    expected = ((np.sqrt(s1) - np.sqrt(s2)) ** 2).sum() + 3.0
    assert frechet_distance(np.zeros(3), np.diag(s1), np.ones(3), np.diag(s2)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [200, 20])  # 20 images of 32 features: singular covariances
def test_fid_equals_clean_fid(n):
    from cleanfid import fid as cleanfid

    x, y = draw(0, n, 32), draw(1, n, 32, shift=0.3)
    a, b = Moments.of(x), Moments.of(y)
    reference = cleanfid.frechet_distance(a.mean(), a.covariance(), b.mean(), b.covariance())
    assert fid_of(x, y) == pytest.approx(reference, rel=1e-6 if n < 32 else 1e-9)


def test_fid_is_symmetric_also_when_singular():
    x, y = draw(0, 10, 32), draw(1, 200, 32)
    assert fid_of(x, y) == pytest.approx(fid_of(y, x), rel=1e-6)


def test_kid_equals_clean_fid_on_whole_sets():
    from cleanfid import fid as cleanfid

    x, y = draw(0, 40).astype(np.float64), draw(1, 40, shift=0.5).astype(np.float64)
    expected = cleanfid.kernel_distance(x, y, num_subsets=1, max_subset_size=1000)
    assert kernel_distance(x, y, 0, subsets=1).mean == pytest.approx(expected, rel=1e-9)


def test_kid_is_seeded_unbiased_and_grows_with_a_shift():
    x, y = draw(0, 400), draw(1, 400)
    first = kernel_distance(x, y, 0, subsets=20, subset_size=100)
    assert first == kernel_distance(x, y, 0, subsets=20, subset_size=100)
    assert abs(first.mean) < 3 * first.sd
    shifted = kernel_distance(x, y + 1, 0, subsets=20, subset_size=100)
    assert shifted.mean > first.mean + 3 * first.sd
    assert shifted.sd > 0


def test_kid_sd_of_a_whole_set_is_not_zero():
    found = set_metrics([draw(0, 60)], ReferenceSet("ref", draw(1, 60)), "judge", 0)
    assert "subsets of 30" in found["kid"].note
    assert " 0;" not in found["kid"].note


def test_set_metrics_do_not_depend_on_shards_and_flag_small_sets():
    x, reference = draw(0, 60), ReferenceSet("ref", draw(1, 80))
    whole = set_metrics([x], reference, "judge", 0, n_unknown=2)
    split = set_metrics([x[:7], x[7:7], x[7:]], reference, "judge", 0, n_unknown=2)
    assert whole["fid"].value == pytest.approx(split["fid"].value, rel=1e-9)
    assert whole["kid"].value == pytest.approx(split["kid"].value, rel=1e-9)
    assert whole["fid"].n == 60
    assert whole["fid"].n_unknown == 2
    assert "below 2049" in whole["fid"].note
    assert reference.sha256[:12] in whole["fid"].note
    assert "sd over" in whole["kid"].note


def test_enough_images_are_not_flagged(monkeypatch):
    monkeypatch.setattr("harness.metrics.sets.SQUARE_ROWS", 50)
    assert "below" not in set_metrics([draw(0, 2049)], ReferenceSet("r", draw(1, 2049)), "j", 0)["fid"].note


@pytest.mark.parametrize("n", [0, 1])
def test_fid_of_too_few_images_is_no_number(n):
    found = set_metrics([draw(0, n)], ReferenceSet("ref", draw(1, 80)), "judge", 0)
    assert found["fid"].value is None
    assert found["kid"].value is None
    assert "fewer than two" in found["fid"].note


def test_reference_is_named_by_its_content(tmp_path):
    features = draw(1, 10)
    np.savez(tmp_path / "a.npz", features=features)
    loaded = ReferenceSet.load("a", tmp_path / "a.npz")
    assert loaded.sha256 == ReferenceSet("b", features).sha256
    assert loaded.sha256 != ReferenceSet("b", features + 1).sha256


def test_set_metrics_do_not_depend_on_the_order_of_images(monkeypatch):
    monkeypatch.setattr("harness.metrics.sets.KEPT_ROWS", 50)
    x, reference = draw(0, 200), ReferenceSet("ref", draw(1, 80))
    order = np.random.default_rng(5).permutation(200)
    whole, shuffled = (set_metrics([rows], reference, "judge", 0) for rows in (x, x[order]))
    assert list(whole) == list(SET_METRICS)
    for name in SET_METRICS:
        assert whole[name].value == pytest.approx(shuffled[name].value, rel=1e-9), name
    assert "drawn from 50 images" in whole["kid"].note
    assert "50 images a side" in whole["precision"].note


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(1, 40))
def test_reservoirs_merge_to_the_same_rows_in_any_order_and_hold_no_more_than_their_size(sizes, size):
    x = draw(3, sum(sizes) + 1)
    parts = np.split(x, np.cumsum(sizes))
    whole = Reservoir(size, 7).add(x).rows()
    left, right = Reservoir(size, 7), Reservoir(size, 7)
    for part in parts:
        left = left.merge(Reservoir(size, 7).add(part))
    for part in reversed(parts):
        right.add(part)
    assert len(whole) == min(size, len(x))
    np.testing.assert_array_equal(left.rows(), whole)
    np.testing.assert_array_equal(right.rows(), whole)


def test_a_reservoir_is_a_uniform_choice_and_another_seed_is_another_one():
    x = np.arange(400, dtype=np.float32)[:, None]
    means = [Reservoir(40, seed).add(x).rows().mean() for seed in range(200)]
    assert np.mean(means) == pytest.approx(199.5, abs=4 * 18.3 / np.sqrt(200))  # sd of a mean of 40 is about 17.3
    assert len(set(means)) > 150
    with pytest.raises(ValueError, match="another size or seed"):
        Reservoir(4, 0).merge(Reservoir(4, 1))


@pytest.mark.parametrize("seed", range(6))
def test_images_that_are_alike_are_kept_in_their_proportion(seed):
    """A third of all rows are one row, as of black images: all or none of them were kept."""
    x = np.concatenate([draw(1, 1000), np.zeros((500, 6), np.float32)])
    kept = Reservoir(300, seed).add(x[np.random.default_rng(seed).permutation(1500)]).rows()
    alike = int((kept == 0).all(axis=1).sum())
    assert len(kept) == 300
    assert abs(alike - 100) < 4 * np.sqrt(300 * 2 / 9 * 1200 / 1499)  # four sd of the hypergeometric law
    assert np.ptp(np.flatnonzero((kept == 0).all(axis=1))) > 200  # and they stand among the others


def test_copies_in_two_parts_are_those_of_one_stream():
    x = np.concatenate([draw(1, 60), np.zeros((40, 6), np.float32)])
    order = np.random.default_rng(0).permutation(100)
    whole = Reservoir(30, 3).add(x).rows()
    parts = [Reservoir(30, 3).add(x[part]) for part in np.split(order, [35, 70])]
    np.testing.assert_array_equal(parts[0].merge(parts[1]).merge(parts[2]).rows(), whole)
    np.testing.assert_array_equal(parts[2].merge(parts[0]).merge(parts[1]).rows(), whole)
    np.testing.assert_array_equal(Reservoir(30, 3).add(x[order]).rows(), whole)


def test_kernel_distance_of_a_set_with_black_images_does_not_hang_on_the_seed(monkeypatch):
    monkeypatch.setattr("harness.metrics.sets.KEPT_ROWS", 400)
    reference = ReferenceSet("ref", draw(2, 400))
    x = np.concatenate([draw(1, 900), np.full((300, 6), 3, np.float32)])
    whole = kernel_distance(x, reference.features, 0, subset_size=400).mean
    found = [set_metrics([x], reference, "judge", seed)["kid"].value for seed in range(5)]
    assert whole > 0.5
    assert max(abs(one - whole) for one in found) < 0.4 * whole


def test_memory_stays_bounded_when_features_come_block_by_block(monkeypatch):
    """51 MB of features in 50 blocks: what is held at once is far less."""
    import tracemalloc

    monkeypatch.setattr("harness.metrics.sets.KEPT_ROWS", 500)
    d, reference = 512, ReferenceSet("ref", np.random.default_rng(0).normal(size=(600, 512)).astype(np.float32))
    blocks = (np.random.default_rng(i).normal(size=(500, d)).astype(np.float32) for i in range(50))
    tracemalloc.start()
    found = set_metrics(blocks, reference, "random", 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["fid"].n == 25_000
    assert peak < 35e6 < 25_000 * d * 4


def brute_prdc(real, fake, k):
    """The four definitions of Naeem et al. 2020, one loop each."""
    def radius(points, i):
        return sorted(np.linalg.norm(points - points[i], axis=1))[k]

    d = np.array([[np.linalg.norm(x - y) for y in fake] for x in real])
    real_radius = np.array([radius(real, i) for i in range(len(real))])
    fake_radius = np.array([radius(fake, j) for j in range(len(fake))])
    precision = np.mean([any(d[i, j] < real_radius[i] for i in range(len(real))) for j in range(len(fake))])
    recall = np.mean([any(d[i, j] < fake_radius[j] for j in range(len(fake))) for i in range(len(real))])
    density = sum(d[i, j] < real_radius[i] for i in range(len(real)) for j in range(len(fake))) / (k * len(fake))
    coverage = np.mean([min(d[i]) < real_radius[i] for i in range(len(real))])
    return precision, recall, density, coverage


@pytest.mark.parametrize("block", [7, 1000])
def test_prdc_is_its_definition_whatever_the_block(monkeypatch, block):
    monkeypatch.setattr("harness.metrics.prdc.BLOCK_ROWS", block)
    real, fake = draw(0, 40).astype(np.float64), draw(1, 30, shift=1.0).astype(np.float64)
    for k in (1, 3, 5):
        assert prdc_scores(real, fake, k) == pytest.approx(brute_prdc(real, fake, k))


def test_prdc_of_a_set_with_itself_is_one_and_of_a_distant_set_zero():
    x = draw(0, 50)
    assert prdc_scores(x, x) == pytest.approx((1, 1, 1, 1))
    assert prdc_scores(x, x + 1000) == (0, 0, 0, 0)
    few_modes = np.repeat(x[:1], 50, axis=0) + 1e-3 * draw(1, 50)
    assert prdc_scores(x, few_modes).precision == 1
    assert prdc_scores(x, few_modes).recall < 0.1
    assert prdc_scores(x, few_modes).coverage < 0.5


@pytest.mark.parametrize(("real", "fake"), [(5, 50), (50, 5)])
def test_prdc_of_fewer_images_than_neighbours_is_refused_and_is_no_number(real, fake):
    with pytest.raises(ValueError, match="neighbours"):
        prdc_scores(draw(0, real), draw(1, fake))
    found = set_metrics([draw(0, fake)], ReferenceSet("r", draw(1, real)), "judge", 0)
    assert found["coverage"].value is None
    assert found["coverage"].higher_is_better
    assert found["fid"].value is not None


def test_fid_infinity_removes_the_bias_that_few_images_give():
    """Both sets from one Gaussian of 24 features: the truth is 0 up to the reference's own bias."""
    truth = Moments.of(np.random.default_rng(0).normal(size=(200_000, 24)))
    plain, extrapolated = [], []
    for seed in range(1, 13):
        x = np.random.default_rng(seed).normal(size=(300, 24))
        plain.append(fid_of_moments(Moments.of(x), truth))
        extrapolated.append(fid_infinity(x, truth).value)
    assert np.mean(plain) > 0.4
    assert abs(np.mean(extrapolated)) < 0.2 * np.mean(plain)


def fid_of_moments(a, b):
    return frechet_distance(a.mean(), a.covariance(), b.mean(), b.covariance())


def test_the_line_of_fid_infinity_is_least_squares_in_one_over_n():
    points = {n: 3 + 50 / n for n in (10, 20, 40, 80)}
    assert intercept(points) == pytest.approx(3)
    points[10] += 1
    slope, expected = np.polyfit([1 / n for n in points], list(points.values()), 1)
    assert intercept(points) == pytest.approx(expected)
    assert slope != pytest.approx(50)


def test_fid_infinity_of_too_few_images_is_no_number_and_points_to_kid():
    assert subset_sizes(50_000, 2048)[0] == 5000
    assert subset_sizes(10_000, 2048)[0] == 4096
    assert subset_sizes(8191, 2048) == ()
    found = set_metrics([draw(0, 23)], ReferenceSet("ref", draw(1, 80)), "judge", 0)["fid_infinity"]
    assert found.value is None
    assert "see KID" in found.note
    assert set_metrics([draw(0, 24)], ReferenceSet("ref", draw(1, 80)), "judge", 0)["fid_infinity"].value is not None
    with pytest.raises(ValueError, match="too few"):
        fid_infinity(draw(0, 23), Moments.of(draw(1, 80)))


def test_fid_infinity_uses_all_images_also_where_only_some_are_kept(monkeypatch):
    monkeypatch.setattr("harness.metrics.sets.KEPT_ROWS", 60)
    found = set_metrics([draw(0, 500)], ReferenceSet("ref", draw(1, 300)), "judge", 0)["fid_infinity"]
    assert "to 500" in found.note
    assert found.n == 500


def test_a_set_without_a_reference_names_every_metric_and_why():
    found = no_set_metrics("no reference set")
    assert list(found) == list(SET_METRICS)
    assert all(metric.value is None and metric.note == "no reference set" for metric in found.values())
    assert {name for name, metric in found.items() if metric.higher_is_better} == set(PRDC_NAMES)


def test_kid_is_that_of_clean_fid_with_its_generator_seeded():
    """clean-fid draws its subsets from numpy's global generator: means over many subsets agree within their spread."""
    from cleanfid import fid as cleanfid

    x, y = draw(0, 120).astype(np.float64), draw(1, 120, shift=0.5).astype(np.float64)
    state = np.random.get_state()
    try:
        np.random.seed(0)
        expected = cleanfid.kernel_distance(x, y, num_subsets=100, max_subset_size=60)
    finally:
        np.random.set_state(state)
    found = kernel_distance(x, y, 0, subsets=100, subset_size=60)
    assert found.mean == pytest.approx(expected, abs=4 * found.sd / np.sqrt(100) * np.sqrt(2))


def test_shares_of_sets_stay_between_zero_and_one_and_say_how_their_interval_was_made():
    near, reference = draw(7, 60) * 0.5, ReferenceSet("ref", draw(8, 60))
    found = set_metrics([near], reference, "judge", 0)
    assert max(found["coverage"].value, found["recall"].value, found["precision"].value) > 0.9
    for name in ("precision", "recall", "coverage"):
        low, high = found[name].ci_low, found[name].ci_high
        assert (low is None and high is None) or 0 <= low <= found[name].value <= high <= 1, name
    assert found["density"].ci_low >= 0
    assert found["precision"].ci_method == "Wilson"
    assert {found[name].ci_method for name in ("kid", "density")} == {"jackknife"}


def test_the_interval_of_a_distance_ends_at_zero():
    """That of the jackknife itself goes below, of two draws of one distribution."""
    rng, lows = np.random.default_rng(0), []
    for _ in range(10):
        images, others = (rng.normal(size=(40, 4)).astype(np.float32) for _ in range(2))
        lows.append(set_metrics([images], ReferenceSet("ref", others), "judge", 0)["fid"].ci_low)
    assert min(lows) == 0 < max(lows)


def test_shares_of_sets_are_printed_in_one_unit():
    from harness.report.format import number

    assert {number(name, 0.5) for name in PRDC_NAMES} == {"0.500"}
