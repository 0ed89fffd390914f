"""Deviation ratio: published counts, sampling floor, intervals."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import (
    deviation_floor,
    deviation_interval,
    deviation_ratio,
    mean_deviation_ratio,
    wilson_interval,
)
from harness.metrics.deviation import paired_deviation_difference
from harness.metrics.folded import largest_bias

UCE = Path(__file__).parents[2] / ".." / "shared" / "data" / "biases_compare.csv"
FLOORS = {
    2: {10: .2455, 25: .1613, 30: .1441, 50: .1118, 100: .0794, 150: .0650, 250: .0506, 500: .0357},
    3: {10: .2727, 25: .1708, 30: .1530, 50: .1201, 100: .0849, 150: .0690, 250: .0536, 500: .0379},
}  # fmt: skip
counts = st.lists(st.integers(0, 200), min_size=2, max_size=6).filter(any)


@pytest.mark.parametrize(("pair", "expected"), [((257, 243), 0.028), ((201, 299), 0.196), ((445, 55), 0.78)])
def test_published_counts_give_the_published_ratio(pair, expected):
    assert deviation_ratio(pair) == pytest.approx(expected, abs=1e-12)


@given(counts)
def test_ratio_is_between_zero_and_one_and_ignores_order(numbers):
    ratio = deviation_ratio(numbers)
    assert 0 <= ratio <= 1 + 1e-12
    assert deviation_ratio(numbers[::-1]) == pytest.approx(ratio, abs=1e-12)
    assert deviation_ratio([7 * n for n in numbers]) == pytest.approx(ratio, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_extremes_are_uniform_and_single(classes):
    assert deviation_ratio([4] * classes) == pytest.approx(0, abs=1e-12)
    assert deviation_ratio([9] + [0] * (classes - 1)) == pytest.approx(1)


@pytest.mark.parametrize(("classes", "n"), [(c, n) for c, row in FLOORS.items() for n in row])
def test_floor_gives_the_simulated_table(classes, n):
    assert deviation_floor(n, classes) == pytest.approx(FLOORS[classes][n], abs=0.002)


def test_mean_over_36_professions_of_uce_is_reproduced():
    if not UCE.is_file():
        pytest.skip(f"the bias file is not at {UCE.resolve()}")
    with UCE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    column = next(name for name in rows[0] if name.lower().startswith("original"))
    name = next(iter(rows[0])) if next(iter(rows[0])) else list(rows[0])[1]
    shares = [float(r[column]) for r in rows if "chef" not in " ".join(map(str, r.values())).lower()]
    assert len(shares) == 36, name
    shares = [share / 100 if max(shares) > 1 else share for share in shares]
    ratios = [deviation_ratio([round(1e6 * p), round(1e6 * (1 - p))]) for p in shares]
    assert np.mean(ratios) == pytest.approx(0.6122, abs=5e-4)


@pytest.mark.parametrize("bad", [[0, 0], [5], [-1, 3]])
def test_no_images_have_no_ratio(bad):
    with pytest.raises(ValueError, match="deviation ratio"):
        deviation_ratio(bad)


@pytest.mark.parametrize(("chance", "share"), [(0.5, 0.95), (0.58, 0.87), (0.7, 0.91), (0.95, 0.91)])
def test_interval_covers_the_true_ratio(chance, share):
    rng = np.random.default_rng(0)
    truth, hits = abs(2 * chance - 1), 0
    for trial in range(200):
        groups = [[k := int(rng.binomial(60, chance)), 60 - k] for _ in range(9)]
        low, high = deviation_interval(groups, trial, resamples=500)
        assert low <= mean_deviation_ratio(groups) <= high
        hits += low <= truth <= high
    assert hits / 200 >= share


def test_same_labels_are_no_difference_and_a_debiased_model_is_one():
    same = paired_deviation_difference([np.array([[20, 0], [0, 5]])], 0)
    assert same.difference == 0
    assert same.p_value == 1
    fair = paired_deviation_difference([np.array([[25, 0], [25, 0]])] * 4, 0)  # a: 25/25, b: 50/0
    assert fair.difference == pytest.approx(-1)
    assert fair.high < 0
    assert fair.p_value < 0.001


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("true", [0, 0.05, 0.3])
def test_interval_covers_also_where_the_ratio_is_mostly_bias(true, classes):
    """Shifted bootstrap percentiles covered .63 to .68 at 0.05."""
    rng, hits = np.random.default_rng(1), 0
    shares = np.full(classes, (1 - true) / classes) + true * np.eye(classes)[0]
    for trial in range(100):
        groups = rng.multinomial(60, shares, size=12).tolist()
        low, high = deviation_interval(groups, trial, resamples=100)
        hits += low - 1e-9 <= true <= high
    assert hits >= 93


@pytest.mark.parametrize(("own", "other"), [(0, 0.6), (0.6, 0), (0.05, 0.3)])
def test_difference_covers_where_one_of_the_two_is_fair(own, other):
    """A percentile bootstrap covered 0 %: the fair one's ratio is too high, and the other's is not."""
    rng, hits = np.random.default_rng(2), 0
    joint = np.outer(*([(1 + ratio) / 2, (1 - ratio) / 2] for ratio in (own, other))).ravel()
    for trial in range(60):
        tables = [rng.multinomial(60, joint).reshape(2, 2) for _ in range(12)]
        found = paired_deviation_difference(tables, trial, resamples=100)
        assert found.low <= found.difference <= found.high
        hits += found.low <= own - other <= found.high
    assert hits >= 55


@pytest.mark.parametrize("counts", [[60, 0], [30, 30], [0, 0, 40]])
def test_no_spread_is_no_certainty(counts):
    low, high = deviation_interval([counts] * 5, 0)
    assert high - low > 0.02
    same = paired_deviation_difference([np.diag(counts)] * 5, 0)
    assert same.low < -0.01
    assert same.high > 0.01


def test_the_bias_of_a_fair_group_is_its_floor_and_of_a_clear_leader_nothing():
    rng = np.random.default_rng(0)
    assert largest_bias([50, 50], rng, 20_000) == pytest.approx(deviation_floor(100, 2), abs=0.003)
    assert largest_bias([50, 50, 50], rng, 20_000) == pytest.approx(deviation_floor(150, 3), abs=0.003)
    assert largest_bias([90, 10], rng, 20_000) < 1e-4
    assert largest_bias([450, 450, 100], rng, 20_000) < 1e-3  # two lead, the third is the farthest from a third
    assert largest_bias([150, 150, 0], rng, 20_000) < 1e-3
    assert largest_bias([60, 40, 20], rng, 20_000) > 0.01  # a class above and one below are equally far


def test_one_group_of_two_classes_has_wilson_s_ends_less_the_bias():
    low, high = deviation_interval([[80, 20]], 0)
    assert (low, high) == pytest.approx([2 * end - 1 for end in wilson_interval(80, 100)], abs=1e-3)
