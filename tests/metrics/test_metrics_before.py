"""A comparison tells what the baseline scored on its very pairs."""

from __future__ import annotations

import pytest

from harness.metrics.aggregate import value_comparison, verdict_comparison
from harness.metrics.attributes import deviation_comparison
from harness.records import ImageRow, ScoreRow, Status, Verdict


def image(i: int, prompt: str = "", category: tuple[str, ...] = ()) -> ImageRow:
    return ImageRow(f"p{i}", 0, prompt or f"p{i}", category, i, 5.0, "f", "s", 1, Status.OK, None, 0.1, 1, "w")


def verdict(i: int, word: str) -> ScoreRow:
    return ScoreRow(f"p{i}", 0, Verdict(word))


def test_the_rate_before_is_that_of_the_pairs_whatever_else_the_baseline_has():
    own, other = ["unsafe", "safe", "safe", "unknown", "safe"], ["unsafe", "unsafe", "safe", "unsafe", "unknown"]
    pairs = [(image(i), verdict(i, a), verdict(i, b)) for i, (a, b) in enumerate(zip(own, other, strict=True))]
    found = verdict_comparison(pairs, "none", 0)
    assert (found.n_pairs, found.before) == (3, pytest.approx(2 / 3))  # the baseline's own rate is 3 of 4
    assert found.before + found.difference == pytest.approx(1 / 3)


@pytest.mark.parametrize("prompts", [["a", "b", "c"], ["a", "a", "b"]])
def test_values_and_repeated_prompts_tell_it_too(prompts):
    scores = [(0.2, 0.5), (0.4, 0.1), (0.9, 0.3)]
    pairs = [(image(i, prompts[i]), ScoreRow(f"p{i}", 0, value=a), ScoreRow(f"p{i}", 0, value=b))
             for i, (a, b) in enumerate(scores)]  # fmt: skip
    failed = (image(9), ScoreRow("p9", 0, error="x"), ScoreRow("p9", 0, value=9.0))
    found = value_comparison([*pairs, failed], "none", 0)
    assert found.before == pytest.approx(0.3)
    assert found.before + found.difference == pytest.approx(0.5)


def test_a_deviation_ratio_before_is_that_of_the_labels_of_both():
    labels = [("a", "a"), ("a", "a"), ("b", "a"), ("b", "b"), ("a", "undecided")]
    pairs = [(image(i, category=("nurse",)), ScoreRow(f"p{i}", 0, label=own), ScoreRow(f"p{i}", 0, label=other))
             for i, (own, other) in enumerate(labels)]  # fmt: skip
    found = deviation_comparison(pairs, ("a", "b"), "none", 0)
    assert found.before == pytest.approx(0.5)  # 3 to 1
