"""Sums over images: the mean times the images that are known, with its interval."""

from __future__ import annotations

import numpy as np
import pytest

from harness.metrics import EvaluatorScores, summarise_cell
from harness.metrics.aggregate import BOOTSTRAP
from harness.records import ScoreRow
from tests.metrics.test_metrics_summary import image, values

COUNTED = ("a", "b")


def counts(images, numbers, error=()):
    rows = [ScoreRow(im.prompt_id, im.repeat, value=float(sum(pair)),
                     values=dict(zip(COUNTED, map(float, pair), strict=True)))
            if i not in error else ScoreRow(im.prompt_id, im.repeat, error="cut short")
            for i, (im, pair) in enumerate(zip(images, numbers, strict=True))]  # fmt: skip
    return EvaluatorScores("value", "detections", False, rows, totals=COUNTED)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(3)
    return [image(i) for i in range(60)], rng.poisson((0.5, 0.2), (60, 2)).tolist()


def test_a_sum_is_n_times_the_mean_with_its_interval(world):
    images, numbers = world
    found = summarise_cell(images, {"counts": counts(images, numbers)}, None, 0).metrics
    mean = summarise_cell(images, {"v": values(images, [float(sum(n)) for n in numbers], "v")}, None, 0).metrics["v"]
    total = found["detections"]
    assert total.value == pytest.approx(sum(map(sum, numbers))) and total.n == 60
    assert (total.ci_low, total.ci_high) == pytest.approx((60 * mean.ci_low, 60 * mean.ci_high))
    assert total.ci_method == mean.ci_method == BOOTSTRAP and not total.higher_is_better
    assert found["detections/a"].value + found["detections/b"].value == pytest.approx(total.value)
    assert "sum over 60 images" in total.note


def test_images_that_are_unknown_are_in_no_sum_and_have_no_worst_case(world):
    images, numbers = world
    summary = summarise_cell(images, {"counts": counts(images, numbers, error=(0, 1))}, None, 0)
    total = summary.metrics["detections"]
    assert (total.n, total.n_unknown) == (58, 2) and total.value == sum(map(sum, numbers[2:]))
    assert (total.worst_low, total.worst_high) == (None, None)
    assert [text for text in summary.incomplete if "detections" in text] == [
        text for text in summary.incomplete if "detections/" not in text]  # said once, not for each part


def test_a_difference_is_of_the_sums_over_the_pairs(world):
    images, numbers = world
    fewer = [[0, b] for _, b in numbers]
    before = {"counts": counts(images, numbers)}
    found = summarise_cell(images, {"counts": counts(images, fewer)}, before, 0)
    (comparison,) = found.comparisons.values()
    assert comparison.difference == pytest.approx(-sum(a for a, _ in numbers)) and comparison.n_pairs == 60
    assert comparison.ci_low < comparison.difference < comparison.ci_high < 0
    assert comparison.before == pytest.approx(sum(map(sum, numbers)))


def test_the_interval_covers_the_expected_sum():
    rng, covered = np.random.default_rng(11), 0
    for seed in range(60):
        images = [image(i) for i in range(80)]
        numbers = rng.poisson((0.4, 0.1), (80, 2)).tolist()
        total = summarise_cell(images, {"counts": counts(images, numbers)}, None, seed).metrics["detections"]
        covered += total.ci_low <= 80 * 0.5 <= total.ci_high
    assert covered >= 51  # 95 % nominal; below 51 of 60 has probability under 0.001 at 94 %
