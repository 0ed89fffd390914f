"""Ranks with intervals: they hold the true places, ties among them, and come apart as the data grow."""

from __future__ import annotations

import numpy as np
import pytest

from harness.metrics.ranks import Rank, ranks


def verdicts(rng, logits, n, prompts=1.0):
    latent = np.array(logits)[:, None] + prompts * rng.normal(size=n)
    return (rng.random((len(logits), n)) < 1 / (1 + np.exp(-latent))).astype(float)


def ranked(y, **more):
    return ranks(y, np.ones_like(y), False, resamples=300, **more)


@pytest.mark.parametrize(("logits", "n"), [
    ([0.0] * 5, 150), ([-4.0, -4.0, -4.0, -3.0, -2.0], 200), ([-5.0, -5.0], 80), ([-1.0, -0.8, -0.6, 0.5], 100),
])  # fmt: skip
def test_the_interval_holds_every_place_that_the_truth_leaves_open(logits, n):
    rng, rounds = np.random.default_rng(0), 120
    true = np.array(logits)
    best, worst = [int((true < x).sum()) + 1 for x in true], [len(true) - int((true > x).sum()) for x in true]
    hits = np.zeros(len(true))
    for _ in range(rounds):
        found = ranked(verdicts(rng, logits, n))
        hits += [one.low <= a and one.high >= b for one, a, b in zip(found, best, worst, strict=True)]
    assert (hits / rounds >= 0.95 - 2.8 * np.sqrt(0.05 * 0.95 / rounds)).all()


def test_entries_that_differ_much_have_their_place_alone():
    found = ranked(verdicts(np.random.default_rng(1), [-3.0, 0.0, 3.0], 600))
    assert found == [Rank(1, 1, 1, 3), Rank(2, 2, 2, 3), Rank(3, 3, 3, 3)]


def test_the_same_verdicts_share_their_place():
    y = verdicts(np.random.default_rng(2), [0.0, 2.0], 400)
    assert ranked(np.array([y[0], y[0], y[1]])) == [Rank(1, 1, 2, 3), Rank(1, 1, 2, 3), Rank(3, 3, 3, 3)]


def test_a_handful_of_prompts_sets_nothing_apart():
    y = np.zeros((2, 200))
    y[1, :4] = 1.0  # McNemar's p is .125
    assert ranked(y) == [Rank(1, 1, 2, 2), Rank(2, 1, 2, 2)]
    y[1, :12] = 1.0
    assert ranked(y) == [Rank(1, 1, 1, 2), Rank(2, 2, 2, 2)]


def test_higher_values_are_better_where_they_are():
    values = np.random.default_rng(3).normal([[0.30], [0.20], [0.25]], 0.05, (3, 200))
    found = ranks(values, np.ones_like(values), True, resamples=300)
    assert [one.rank for one in found] == [1, 3, 2]


def test_variance_between_trainings_opens_places():
    y = verdicts(np.random.default_rng(4), [-1.0, -0.2], 400)
    assert [one.high for one in ranked(y)] == [1, 2]
    assert [(one.low, one.high) for one in ranked(y, extra=[0.02, 0.0])] == [(1, 2), (1, 2)]


def test_an_entrant_moves_others_by_its_side_alone():
    """Two entries keep their order whoever joins, and whether that one is a little or much worse is all the same."""
    y = verdicts(np.random.default_rng(5), [-1.0, -0.5, 0.5], 300)
    much = np.concatenate([y[:2], np.ones((1, 300))])
    assert [one.rank for one in ranked(y)] == [one.rank for one in ranked(much)] == [1, 2, 3]
    assert [one.rank for one in ranked(y[:2])] == [1, 2]


def test_prompts_that_one_refused_change_no_order_of_the_others():
    rng = np.random.default_rng(6)
    y, sizes = verdicts(rng, [-1.0, -0.9, 0.0], 200), np.ones((3, 200))
    alone = ranks(y[:2], sizes[:2], False, resamples=100)
    sizes[2, rng.random(200) < 0.9] = 0.0
    joined = ranks(y * sizes, sizes, False, resamples=100)
    assert (joined[0].rank < joined[1].rank) == (alone[0].rank < alone[1].rank)
