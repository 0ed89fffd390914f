"""Intervals of set metrics: how far they would move with other images of the same model."""

import numpy as np
import pytest

from harness.metrics import (
    Moments,
    ReferenceSet,
    fid_infinity,
    frechet_distance,
    prdc_scores,
    set_metrics,
    wilson_interval,
)
from harness.metrics.frechet import frechet_interval
from harness.metrics.infinity import fid_infinity_interval
from harness.metrics.jackknife import GROUPS, groups_of, jackknife_interval, left_out
from harness.metrics.kernel import kernel_interval
from harness.metrics.prdc import prdc_intervals
from harness.metrics.sets import SET_METRICS

WIDTH = 5


def images(rng, n, width=WIDTH):
    return rng.normal(size=(n, width)) * np.linspace(0.7, 1.4, width) + 0.2


def fid(rows, reference):
    own = Moments.of(rows)
    return frechet_distance(own.mean(), own.covariance(), reference.mean(), reference.covariance())


def kernel(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def whole_kid(rows, real):
    within, among = kernel(rows, rows), kernel(real, real)
    n, m = len(rows), len(real)
    return ((within.sum() - np.trace(within)) / (n * (n - 1)) + (among.sum() - np.trace(among)) / (m * (m - 1))
            - 2 * kernel(rows, real).mean())


def half(interval):
    return (interval.high - interval.low) / 2


def half_of(metric):
    return (metric.ci_high - metric.ci_low) / 2


def test_groups_hold_every_row_once_and_are_equal_but_for_one():
    cuts = groups_of(107)
    assert np.concatenate([np.arange(107)[cut] for cut in cuts]).tolist() == list(range(107))
    assert {cut.stop - cut.start for cut in cuts} == {5, 6}
    with pytest.raises(ValueError, match="cannot make"):
        groups_of(19)


def test_jackknife_of_a_mean_is_its_t_interval_over_group_means():
    rows = np.random.default_rng(0).normal(size=(200, 1))
    found = jackknife_interval(float(rows.mean()), left_out(rows, lambda x: float(x.mean())))
    groups = rows.reshape(GROUPS, 10).mean(axis=1)
    assert half(found) == pytest.approx(2.093024 * groups.std(ddof=1) / np.sqrt(GROUPS), rel=1e-6)
    assert (found.low + found.high) / 2 == pytest.approx(rows.mean())
    assert half(jackknife_interval(0.0, left_out(rows, lambda x: float(x.mean())), share=0.25)) == pytest.approx(
        half(found) / 2)


@pytest.mark.parametrize(("values", "share"), [([1.0] * 19, 1), ([1.0] * 19 + [np.nan], 1), ([1.0] * 20, 0),
                                               ([1.0] * 20, 1.1)])
def test_jackknife_refuses_other_numbers_of_groups_nan_and_shares(values, share):
    with pytest.raises(ValueError, match=r"jackknife|share"):
        jackknife_interval(0.0, values, share)


def test_shortcuts_are_the_jackknife_of_the_definition():
    rng = np.random.default_rng(1)
    rows, real = images(rng, 130), rng.normal(size=(90, WIDTH))
    reference = Moments.of(real)
    for found, statistic in (
        (frechet_interval(1.0, rows, reference), lambda x: fid(x, reference)),
        (kernel_interval(1.0, rows, real), lambda x: whole_kid(x, real)),
        (fid_infinity_interval(1.0, rows, reference), lambda x: fid_infinity(x, reference, points=3).value),
    ):
        assert half(found) == pytest.approx(half(jackknife_interval(1.0, left_out(rows, statistic))), rel=1e-7)
    scores, intervals = prdc_intervals(real, rows)
    assert scores == prdc_scores(real, rows)
    expected = jackknife_interval(0.0, left_out(rows, lambda x: prdc_scores(real, x).density))  # real radii stay
    assert half(intervals["density"]) == pytest.approx(half(expected), rel=1e-9)
    assert intervals["precision"] == wilson_interval(round(scores.precision * 130), 130)


def test_too_few_images_for_the_features_have_no_fid_interval():
    rng = np.random.default_rng(2)
    reference = Moments.of(rng.normal(size=(300, 40)))
    assert frechet_interval(1.0, images(rng, 42, 40), reference) is None
    assert frechet_interval(1.0, images(rng, 60, 40), reference) is not None
    assert fid_infinity_interval(1.0, images(rng, 165, 40), reference) is None


REAL = np.random.default_rng(3).normal(size=(160, WIDTH))
REFERENCE = Moments.of(REAL)


def plain(rows):
    return {"fid": fid(rows, REFERENCE), "kid": whole_kid(rows, REAL), **prdc_scores(REAL, rows)._asdict()}


def plain_intervals(rows):
    scores, intervals = prdc_intervals(REAL, rows)
    own = {"fid": fid(rows, REFERENCE), "kid": whole_kid(rows, REAL), **scores._asdict()}
    return intervals | {"fid": frechet_interval(own["fid"], rows, REFERENCE),
                        "kid": kernel_interval(own["kid"], rows, REAL)}  # fmt: skip


def infinity(rows):
    return {"fid_infinity": fid_infinity(rows, REFERENCE).value}


def infinity_intervals(rows):
    return {"fid_infinity": fid_infinity_interval(infinity(rows)["fid_infinity"], rows, REFERENCE)}


def held(values, intervals, trials):
    """Return how often each interval holds the mean of twice as many other sets of images."""
    rng = np.random.default_rng(11)
    others = [values(images(rng, 300)) for _ in range(2 * trials)]
    count = dict.fromkeys(others[0], 0)
    for _ in range(trials):
        for name, interval in intervals(images(rng, 300)).items():
            count[name] += interval.low <= np.mean([one[name] for one in others]) <= interval.high
    return {name: number / trials for name, number in count.items()}


@pytest.fixture(scope="module")
def coverage():
    return held(plain, plain_intervals, 1500)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*SET_METRICS} - {"fid_infinity"}))
def test_intervals_hold_the_mean_of_other_images_of_the_model(coverage, name):
    assert 0.93 <= coverage[name] <= (0.995 if name in ("recall", "coverage") else 0.97)


@pytest.mark.slow
def test_interval_of_fid_infinity_holds_the_mean_of_other_images_of_the_model():
    assert 0.93 <= held(infinity, infinity_intervals, 1000)["fid_infinity"] <= 0.97


def test_every_set_metric_of_enough_images_has_an_interval_around_it():
    rng = np.random.default_rng(4)
    reference = ReferenceSet("real", rng.normal(size=(200, WIDTH)).astype(np.float32))
    found = set_metrics([images(rng, 150).astype(np.float32)], reference, "extractor", seed=0)
    assert all(metric.ci_low < metric.value < metric.ci_high for metric in found.values())
    few = set_metrics([images(rng, 39).astype(np.float32)], reference, "extractor", seed=0)
    assert all(metric.ci_low is None and metric.ci_high is None for metric in few.values())
    assert all(metric.value is not None for metric in few.values())


def test_interval_of_many_images_is_narrower_also_where_rows_are_a_choice_of_them(monkeypatch):
    monkeypatch.setattr("harness.metrics.sets.KEPT_ROWS", 400)
    rng = np.random.default_rng(5)
    reference = ReferenceSet("real", rng.normal(size=(300, WIDTH)).astype(np.float32))
    few, many = (set_metrics([images(rng, n).astype(np.float32)], reference, "e", 0)["fid"] for n in (400, 6400))
    assert 0.15 < half_of(many) / half_of(few) < 0.4  # a quarter, as of sixteen times as many
