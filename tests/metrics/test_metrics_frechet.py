"""Frechet distance: equal to clean-fid's, right where covariances are singular, and faster."""

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import Moments, frechet_distance


def features(seed, n, d, shift=0.0):
    """Return correlated features whose variances fall by a factor of some 3,000, as Inception's do."""
    mixed = np.random.default_rng(99).normal(size=(d, d)) * np.exp(-4 * np.arange(d) / d)
    return np.random.default_rng(seed).normal(size=(n, d)) @ mixed + shift


def moments_of(x):
    moments = Moments.of(x)
    return moments.mean(), moments.covariance()


def distance(x, y):
    return frechet_distance(*moments_of(x), *moments_of(y))


def exact(x, y):
    """Return the distance from the images themselves: tr (S1 S2)^(1/2) is the nuclear norm of A B^T, without roots."""
    a, b = ((z - z.mean(axis=0)) / np.sqrt(len(z) - 1) for z in (x, y))
    shift = x.mean(axis=0) - y.mean(axis=0)
    return shift @ shift + (a * a).sum() + (b * b).sum() - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 500), (500, 20), (64, 64), (65, 66), (2, 500)])
def test_singular_covariances_give_the_exact_value(n, m):
    x, y = features(0, n, 64), features(1, m, 64, shift=0.3)
    assert distance(x, y) == pytest.approx(exact(x, y), rel=1e-11)


def test_features_that_never_vary_change_nothing():
    x, y = features(0, 300, 16), features(1, 300, 16, shift=0.2)
    dead = np.hstack([x, np.zeros((300, 3))]), np.hstack([y, np.zeros((300, 3))])
    assert distance(*dead) == pytest.approx(distance(x, y), rel=1e-12)


def test_sets_of_one_repeated_image_are_points():
    x, y = np.ones((5, 3)), np.zeros((7, 3))
    assert distance(x, y) == pytest.approx(3)
    assert distance(x, x) == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40), st.floats(0.1, 8))
def test_symmetry_scale_shift_and_rotation(seed, n, scale):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 12)), rng.normal(size=(30, 12)) + 0.5
    value = distance(x, y)
    rotation, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    assert value >= 0
    assert distance(y, x) == pytest.approx(value, rel=1e-7)
    assert distance(scale * x, scale * y) == pytest.approx(scale**2 * value, rel=1e-7)
    assert distance(x + 3, y + 3) == pytest.approx(value, rel=1e-7)
    assert distance(x @ rotation, y @ rotation) == pytest.approx(value, rel=1e-7)
    assert distance(rng.permutation(x), y) == pytest.approx(value, rel=1e-7)


def test_what_is_no_gaussian_is_refused():
    mu, sigma = np.zeros(3), np.eye(3)
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance(mu, sigma, np.zeros(4), np.eye(4))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(mu, sigma, mu, sigma * np.nan)


@pytest.mark.slow
def test_2048_features_take_a_tenth_of_clean_fids_time_for_the_same_value():
    from cleanfid import fid as cleanfid

    first, second = moments_of(features(0, 2500, 2048)), moments_of(features(1, 2500, 2048, shift=0.01))
    own = []
    for _ in range(3):
        found, *seconds = timed(lambda: frechet_distance(*first, *second))
        own.append(seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, *reference = timed(lambda: cleanfid.frechet_distance(*first, *second))
    wall, processor = (theirs / min(ours) for theirs, ours in zip(reference, zip(*own, strict=True), strict=True))
    print(f"\nclean-fid {reference} s, own {own} s (wall, processor), relative difference {found / expected - 1:.1e}")
    assert found == pytest.approx(expected, rel=1e-8)
    assert max(wall, processor) >= 10  # other processes delay wall times, more threads cost processor time


def timed(call):
    wall, processor = time.perf_counter(), time.process_time()
    value = call()
    return value, time.perf_counter() - wall, time.process_time() - processor
