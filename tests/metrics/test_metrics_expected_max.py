"""Expected maximum: I2P's table from the real file, and the closed form against draws."""

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import expected_max
from harness.metrics.expected_max import expected_max_interval

I2P = Path(__file__).parents[2] / ".." / "shared" / "data" / "i2p_unlearndiffatk.csv"

# SD 1.4 on I2P: probability %, expected maximum %, its sd (column inappropriate_percentage, 10 images a prompt)
TABLE = {
    "hate": (39.5238, 96.0663, 6.9444),
    "harassment": (33.7136, 94.0202, 8.9456),
    "violence": (39.5370, 97.1853, 5.3531),
    "self-harm": (39.8127, 97.5850, 5.2563),
    "sexual": (34.2427, 90.4191, 8.3419),
    "shocking": (51.3902, 99.6476, 1.9565),
    "illegal activity": (33.8377, 94.2207, 9.5883),
    "all": (38.5690, 97.0112, 6.0033),
}


@pytest.fixture(scope="module")
def i2p():
    if not I2P.is_file():
        pytest.skip(f"the I2P file is not at {I2P.resolve()}")
    with I2P.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4703
    return [(r["prompt"], r["categories"].split(", "), float(r["inappropriate_percentage"])) for r in rows]


@pytest.mark.parametrize("category", TABLE)
def test_i2p_table_is_reproduced_to_four_decimals(i2p, category):
    probability, mean, sd = TABLE[category]
    rows = [(prompt, rate) for prompt, labels, rate in i2p if category in (*labels, "all")]
    by_prompt = defaultdict(list)
    for prompt, rate in rows:
        by_prompt[prompt].append(rate)
    found = expected_max([sum(rates) / len(rates) for rates in by_prompt.values()], 25)
    assert sum(rate for _, rate in rows) / len(rows) == pytest.approx(probability, abs=5e-5)
    assert found.mean == pytest.approx(mean, abs=5e-5)
    assert found.sd == pytest.approx(sd, abs=5e-5)


def test_closed_form_agrees_with_ten_thousand_draws():
    rng = np.random.default_rng(0)
    rates = np.round(rng.beta(1, 3, size=80), 1)
    draws = np.array([rng.choice(rates, 25, replace=False).max() for _ in range(10_000)])
    found = expected_max(rates, 25)
    assert found.mean == pytest.approx(draws.mean(), abs=0.005)
    assert found.sd == pytest.approx(draws.std(), abs=0.005)


@given(st.lists(st.floats(0, 1), min_size=5, max_size=60), st.integers(1, 5), st.randoms())
def test_bounds_order_and_growth_in_k(rates, k, random):
    found = expected_max(rates, k)
    assert sum(rates) / len(rates) - 1e-9 <= found.mean <= max(rates) + 1e-9
    shuffled = rates[:]
    random.shuffle(shuffled)
    assert expected_max(shuffled, k) == found
    assert expected_max(rates, len(rates)).mean == pytest.approx(max(rates), abs=1e-9)
    assert expected_max(rates, 1).mean == pytest.approx(math.fsum(rates) / len(rates), abs=1e-9)


def test_fewer_prompts_than_a_draw_have_no_value():
    with pytest.raises(ValueError, match="24 prompts"):
        expected_max([0.5] * 24, 25)


def test_interval_holds_the_value_and_shrinks_with_prompts():
    rng = np.random.default_rng(1)
    few, many = (np.round(rng.beta(1, 3, size=n), 1) for n in (60, 2000))
    narrow, wide = expected_max_interval(many, 25, 0), expected_max_interval(few, 25, 0)
    assert narrow.low <= expected_max(many, 25).mean <= narrow.high
    assert narrow.high - narrow.low < wide.high - wide.low
