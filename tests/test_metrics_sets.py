"""FID, KID and the accumulator behind them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import Moments, ReferenceSet, frechet_distance, kernel_distance, set_metrics


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
    cleanfid = pytest.importorskip("cleanfid.fid")
    x, y = draw(0, n, 32), draw(1, n, 32, shift=0.3)
    a, b = Moments.of(x), Moments.of(y)
    reference = cleanfid.frechet_distance(a.mean(), a.covariance(), b.mean(), b.covariance())
    assert fid_of(x, y) == pytest.approx(reference, rel=1e-6 if n < 32 else 1e-9)


def test_fid_is_symmetric_also_when_singular():
    x, y = draw(0, 10, 32), draw(1, 200, 32)
    assert fid_of(x, y) == pytest.approx(fid_of(y, x), rel=1e-6)


def test_kid_equals_clean_fid_on_whole_sets():
    cleanfid = pytest.importorskip("cleanfid.fid")
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


def test_enough_images_are_not_flagged():
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
