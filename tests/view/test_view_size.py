"""The viewer at 40 methods on 6 benches with 30,000 images each: nothing that a page asks for is large."""

from __future__ import annotations

import json

import pytest

from harness.view.addresses import Addresses
from harness.view.library import Library
from tests.speed.big_results import write_big

LIMIT = 2_000_000  # bytes


def answer(addresses, address):
    content = addresses.answer(address).content
    assert len(content) < LIMIT, address
    return json.loads(content)


@pytest.mark.slow
def test_no_answer_grows_with_the_number_of_images(tmp_path):
    results = write_big(tmp_path / "results", methods=2, benches=1, images=30_000)
    addresses = Addresses(Library(results), live=True, patience=None)
    cell = answer(addresses, "board.json")["rows"][0]["cell"]
    answer(addresses, f"cells/{cell}.json")
    about = answer(addresses, f"cells/{cell}/images.json")
    assert about["n"] == 30_000
    chunks = [answer(addresses, f"cells/{cell}/columns/{n}.json") for n in range(15)]
    assert sum(len(chunk["ids"]) for chunk in chunks) == 30_000
    assert addresses.answer(f"cells/{cell}/columns/15.json") is None
    assert max(len(json.dumps(chunk)) for chunk in chunks) < LIMIT / 10
    for part in ("details", "same"):
        assert len(answer(addresses, f"cells/{cell}/{part}/0.json")["images" if part == "details" else "cells"])
    addresses.close()


@pytest.mark.slow
def test_board_of_40_methods_on_6_benches_is_small(tmp_path):
    addresses = Addresses(Library(write_big(tmp_path / "results", images=70)), live=True)
    board = answer(addresses, "board.json")
    assert len(board["rows"]) == 240 and len(json.dumps(board)) < LIMIT / 4
    assert len(addresses.answer("leaderboard.csv").content) < LIMIT
    addresses.close()
