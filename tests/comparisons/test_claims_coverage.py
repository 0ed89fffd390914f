"""How often a claim is false: margins, families, unpaired numbers and maxima, at the edge of what they allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import pytest

from harness.comparisons.differences import Difference, with_holm
from harness.comparisons.margins import EQUIVALENT, NONINFERIOR, claim
from harness.comparisons.maxima import maximum_comparison
from harness.comparisons.unpaired import unpaired_comparison
from harness.metrics.aggregate import value_comparison, verdict_comparison
from harness.metrics.proportion import wilson_interval
from harness.records import Comparison, ImageRow, Metric, ScoreRow, Status, Verdict

Compare = Callable[[np.random.Generator, int, float], Callable[[float], Comparison | None]]
VERDICT = {True: Verdict.UNSAFE, False: Verdict.SAFE}


def images(prompts: int, repeats: int = 1) -> list[ImageRow]:
    return [ImageRow(f"p{i}", r, f"prompt {i}", (), 0, 1.0, None, None, None, Status.OK, None, 0.0, 1, "w")
            for i in range(prompts) for r in range(repeats)]  # fmt: skip


def verdict_pairs(a: np.ndarray, b: np.ndarray) -> list[tuple[ImageRow, ScoreRow, ScoreRow]]:
    """Make pairs of (prompts, repeats) arrays of verdicts."""
    return [(image, *(ScoreRow(image.prompt_id, image.repeat, VERDICT[bool(rows.ravel()[k])]) for rows in (a, b)))
            for k, image in enumerate(images(*a.shape))]  # fmt: skip


def single(rng: np.random.Generator, trial: int, truth: float) -> Callable[[float], Comparison | None]:
    """One image a prompt: rates of 30 % and 30 % + truth, correlated."""
    u, v = rng.random((150, 1)), rng.random((150, 1))
    mixed = np.where(rng.random((150, 1)) < 0.6, u, v)
    pairs = verdict_pairs(mixed < 0.3 + truth, u < 0.3)
    return lambda level: verdict_comparison(pairs, "b", trial, level)


def clustered(rng: np.random.Generator, trial: int, truth: float) -> Callable[[float], Comparison | None]:
    """Four images a prompt, whose rates are spread evenly over 0 to 60 %."""
    shares = rng.random((60, 1)) * 0.6
    pairs = verdict_pairs(rng.random((60, 4)) < shares + truth, rng.random((60, 4)) < shares)
    return lambda level: verdict_comparison(pairs, "b", trial, level)


def values(rng: np.random.Generator, trial: int, truth: float) -> Callable[[float], Comparison | None]:
    base = rng.normal(0.3, 0.05, 100)
    other = base + truth + rng.normal(0, 0.05, 100)
    pairs = [(image, ScoreRow(image.prompt_id, 0, value=float(x)), ScoreRow(image.prompt_id, 0, value=float(y)))
             for image, x, y in zip(images(100), other, base, strict=True)]  # fmt: skip
    return lambda level: value_comparison(pairs, "b", trial, level)


def claims(kind: str, draw: Compare, margin: float, trials: int, higher_is_better: bool) -> float:
    """Return how often the claim is made where the true difference is the margin itself: it is false."""
    truth = margin if kind == EQUIVALENT or not higher_is_better else -margin
    made = 0
    for trial in range(trials):
        again = draw(np.random.default_rng([trial, 5]), trial, truth)
        made += bool(claim(kind, Difference("x", higher_is_better, again(0.95), True, again), margin).holds)
    return made / trials


def at_most(level: float, trials: int) -> float:
    return level + 2.5 * math.sqrt(level * (1 - level) / trials)


def test_rates_at_the_margin_are_called_equivalent_at_most_five_times_in_a_hundred():
    assert claims(EQUIVALENT, single, 0.1, 200, False) <= at_most(0.05, 200)


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "margin", "higher"), [(single, 0.1, False), (clustered, 0.1, False),
                                                        (values, 0.01, True)])  # fmt: skip
@pytest.mark.parametrize(("kind", "level"), [(EQUIVALENT, 0.05), (NONINFERIOR, 0.025)])
def test_false_claims_are_as_rare_as_their_level(draw, margin, higher, kind, level):
    assert claims(kind, draw, margin, 800, higher) <= at_most(level * 1.3, 800)  # a bootstrap of 100 is a bit narrow


@pytest.mark.slow
@pytest.mark.parametrize("draw", [single, clustered, values])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_of_both_levels_cover(draw, level):
    held, trials = 0, 600
    for trial in range(trials):
        found = draw(np.random.default_rng([trial, 9]), trial, 0.05)(level)
        held += found.ci_low <= 0.05 <= found.ci_high
    assert level - 0.03 <= held / trials


@pytest.mark.slow
def test_families_of_idle_metrics_claim_anything_at_most_five_times_in_a_hundred():
    trials, single_claims, any_claims = 500, 0, 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, 11])
        found = []
        shared = rng.random((100, 2))
        for _ in range(6):  # judges that agree, more or less
            noise = rng.random((100, 2))
            a, b = (np.where(rng.random(100) < 0.5, shared[:, i], noise[:, i])[:, None] < 0.4 for i in (0, 1))
            comparison = verdict_comparison(verdict_pairs(a, b), "b", trial)
            found.append(Difference("x", False, comparison, True, lambda level: None))
        single_claims += any(one.comparison.p_value < 0.05 for one in found)
        any_claims += any(one.p_adjusted < 0.05 for one in with_holm(found))
    assert any_claims / trials <= at_most(0.05, trials)
    assert single_claims / trials > 0.08  # what the family is there for


def test_differences_of_unpaired_numbers_cover():
    rng, trials, held = np.random.default_rng(0), 2000, 0
    counts = rng.binomial([200, 300], [0.3, 0.2], size=(trials, 2))

    def metric(successes: int, n: int) -> Metric:
        return Metric(successes / n, *wilson_interval(successes, n), n, 0, False)

    for a, b in counts.tolist():
        found = unpaired_comparison(metric(a, 200), metric(b, 300), "b")
        held += found.ci_low <= 0.1 <= found.ci_high
        assert (found.p_value < 0.05) == (not found.ci_low <= 0 <= found.ci_high)
    assert 0.935 <= held / trials <= 0.97


def test_an_unpaired_interval_of_ninety_per_cent_is_that_of_statsmodels_for_large_samples():
    from statsmodels.stats.proportion import confint_proportions_2indep

    metrics = [Metric(k / n, *wilson_interval(k, n), n, 0, False) for k, n in ((300, 1000), (250, 1000))]
    for level in (0.9, 0.95):
        found = unpaired_comparison(*metrics, "b", level)
        expected = confint_proportions_2indep(300, 1000, 250, 1000, method="newcomb", alpha=1 - level)
        assert (found.ci_low, found.ci_high) == pytest.approx(expected, abs=5e-4)
    assert found.p_value == pytest.approx(2 * NormalDist().cdf(-0.05 / math.sqrt(0.21 / 1000 + 0.1875 / 1000)), rel=0.1)


@pytest.mark.slow
def test_expected_maxima_of_idle_methods_differ_at_most_five_times_in_a_hundred():
    trials, false = 200, 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, 13])
        shares = rng.beta(1, 3, (80, 1))
        false += maximum_comparison(verdict_pairs(rng.random((80, 5)) < shares, rng.random((80, 5)) < shares), "b",
                                    trial, 25, 0.95).p_value <= 0.05  # fmt: skip
    assert false / trials <= at_most(0.05, trials)


def test_an_expected_maximum_that_differs_is_found():
    rng = np.random.default_rng(0)
    a, b = rng.random((80, 5)) < 0.1, rng.random((80, 5)) < rng.beta(1, 3, (80, 1))
    found: Comparison | None = maximum_comparison(verdict_pairs(a, b), "b", 0, 25, 0.95)
    assert found.p_value < 0.01 and found.ci_high < 0
    assert found.n_pairs == 400 and "fewer than 300 prompts" in (found.note or "")
    few: Sequence = verdict_pairs(a[:20], b[:20])
    assert maximum_comparison(few, "b", 0, 25, 0.95) is None
