"""Check values: benchmarks' published counts; bounds and symmetry by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import coverage_bounds, wilson_interval

CHECK_VALUES = [
    (29, 142, 14.61, 27.79),
    (108, 142, 68.41, 82.33),
    (0, 142, 0.0, 2.63),
    (0, 1000, 0.0, 0.38),
    (84, 5000, 1.36, 2.08),
    (17_755, 47_030, 37.32, 38.19),
]
counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(("successes", "n", "low", "high"), CHECK_VALUES)
def test_wilson_gives_the_reference_values(successes, n, low, high):
    interval = wilson_interval(successes, n)
    assert 100 * interval.low == pytest.approx(low, abs=0.005)
    assert 100 * interval.high == pytest.approx(high, abs=0.005)


@given(counts)
def test_wilson_holds_the_rate_and_stays_in_bounds(case):
    successes, n = case
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert low < high


@given(counts)
def test_wilson_mirrors_when_success_and_failure_swap(case):
    successes, n = case
    low, high = wilson_interval(successes, n)
    mirrored = wilson_interval(n - successes, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_a_rate_of_nothing_has_no_value(successes, n):
    with pytest.raises(ValueError, match="observation"):
        wilson_interval(successes, n)


@given(counts, st.integers(0, 500))
def test_coverage_bounds_hold_every_possible_rate(case, unknown):
    successes, n = case
    low, high = coverage_bounds(successes, n, unknown)
    total = n + unknown
    for unsafe in (0, unknown // 2, unknown):
        assert low - 1e-12 <= (successes + unsafe) / total <= high + 1e-12
    assert (high - low) * total == pytest.approx(unknown, abs=1e-6)


def test_all_unknown_means_anything_between_none_and_all():
    assert coverage_bounds(0, 0, 7) == (0.0, 1.0)
