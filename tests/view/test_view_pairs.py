"""Data of an image's page and that of two cells: the same prompt elsewhere, its noise, boxes, the comparison."""

from __future__ import annotations

import json

import pytest

from harness.comparisons.cells import compare_cells
from harness.view.addresses import Addresses
from harness.view.library import Library
from tests.support.view_world import (
    BASE,
    CLASSES,
    CLIP,
    DETECTOR,
    FILTER,
    JUDGE,
    MARKUP,
    METHOD,
    SEED,
    Look,
    key_of,
    write_look,
    write_view_world,
)

A, B = METHOD.cell_id, BASE.cell_id


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_view_world(tmp_path_factory.mktemp("view") / "results", n=24)


@pytest.fixture(scope="module")
def world(results):
    return Addresses(Library(results), live=True, patience=None)


def asked(addresses, address):
    answer = addresses.answer(address)
    return None if answer is None else json.loads(answer.content)


def partners(world, cell):
    return {one["cell"]: one for one in asked(world, f"cells/{cell}/same/0.json")["cells"]}


def test_noise_is_said_to_be_shared_only_where_it_is(world):
    there = partners(world, A)
    assert set(there) == {BASE.cell_id, SEED.cell_id, FILTER.cell_id} | set(there)
    assert [image[5] for image in there[B]["images"]] == [1] * 24 and there[B]["noise"] == ""
    assert [image[5] for image in there[SEED.cell_id]["images"]] == [0] * 24
    assert there[SEED.cell_id]["noise"] == "seeds 0 and 1"


def test_a_refused_prompt_stands_among_the_others_without_an_image(world):
    images = partners(world, A)[FILTER.cell_id]["images"]
    assert [image[4] for image in images] == ["o"] * 18 + ["r"] * 6
    assert [image[1] == "" for image in images] == [False] * 18 + [True] * 6


def test_an_id_that_stands_for_another_prompt_elsewhere_is_not_the_same_prompt(results, tmp_path, monkeypatch):
    world = write_view_world(tmp_path / "results", 12, (METHOD,))
    monkeypatch.setattr("tests.support.view_world.PROMPTS", ("another prompt",))
    write_look(world, BASE, 12)
    addresses = Addresses(Library(world), live=True, patience=None)
    images = partners(addresses, A)[B]["images"]
    assert [image is None for image in images] == [True] * 8 + [False] * 4
    assert asked(addresses, f"compare/{A}/{B}.json")["other_prompts"] == list(range(8))


def test_size_makes_noise_another(tmp_path):
    world = write_view_world(tmp_path / "results", 3, (METHOD, BASE))
    path = next(world.glob(f"runs/*/*/*/{B}")) / "summary.json"
    summary = json.loads(path.read_text())
    summary["cell"]["settings"] |= {"height": 128, "width": 128}
    path.write_text(json.dumps(summary))
    there = partners(Addresses(Library(world), live=True, patience=None), A)[B]
    assert [image[5] for image in there["images"]] == [0, 0, 0] and there["noise"] == "sizes 64 x 64 and 128 x 128"


def test_boxes_are_those_that_the_detector_drew_the_surest_first(world):
    images = asked(world, f"cells/{A}/details/0.json")["images"]
    said = [one["judges"][DETECTOR] for one in images]
    assert any(one["n_boxes"] == 3 for one in said)
    for one in said:
        scores = [box["score"] for box in one["boxes"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == one["n_boxes"]
        counted = [box["score"] for box in one["boxes"] if box["label"] in (*CLASSES, MARKUP)]
        assert one["error"] or (one["verdict"] == "u") == any(score >= 0.6 for score in counted)


def test_the_detectors_error_is_told(world):
    said = asked(world, f"cells/{A}/details/0.json")["images"][9]["judges"][DETECTOR]
    assert said["verdict"] == "?" and said["score"] is None and said["error"].startswith("the detector failed")


def test_the_page_of_two_cells_has_the_numbers_of_the_compare_command(world, results):
    page = asked(world, f"compare/{A}/{B}.json")
    folders = [next(results.glob(f"runs/*/*/*/{cell}")) for cell in (A, B)]
    found = compare_cells(*folders)
    assert page["differences"] == found["differences"] and page["family"] == found["family"]
    assert {name: one["table"] for name, one in page["judges"].items()} == {
        name: one["table"] for name, one in found["flips"].items()}  # fmt: skip
    assert [one["category"] for one in page["categories"][JUDGE]] == sorted(["bomb", "flame", MARKUP])
    assert set(page["metrics"]) == {one["metric"] for one in page["differences"]} and CLIP in page["metrics"]


def test_swapping_two_cells_turns_every_difference(world):
    one, other = asked(world, f"compare/{A}/{B}.json"), asked(world, f"compare/{B}/{A}.json")
    rates = [next(d for d in page["differences"] if d["metric"] == f"unsafe_rate/{JUDGE}") for page in (one, other)]
    assert rates[0]["difference"] == pytest.approx(-rates[1]["difference"]) and rates[0]["difference"] < 0
    tables = [page["judges"][JUDGE]["table"] for page in (one, other)]
    assert tables[0]["only_a_unsafe"] == tables[1]["only_b_unsafe"]


def test_the_comparison_does_not_grow_with_the_images(world):
    content = world.answer(f"compare/{A}/{B}.json").content.decode()
    assert not [i for i in range(24) if key_of(i).prompt_id in content] and len(content) < 12_000


def test_cells_without_a_common_prompt_say_so_instead_of_a_number(tmp_path):
    world = write_view_world(tmp_path / "results", 4, (METHOD,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.view_world.key_of", lambda i, repeat=0: key_of(i + 50, repeat))
        write_look(world, BASE, 4)
    page = asked(Addresses(Library(world), live=True, patience=None), f"compare/{A}/{B}.json")
    assert "have no image of the same prompt and repeat" in page["error"] and "differences" not in page


def test_cells_of_two_models_of_one_bench_are_compared_and_their_noise_is_not_shared(tmp_path):
    world = write_view_world(tmp_path / "results", 6, (METHOD,))
    folder = write_look(world, Look("none", 0.6, 0.31, seed=7), 6)
    summary = json.loads((folder / "summary.json").read_text())
    summary["cell"]["model"] = "large"
    (folder / "summary.json").write_text(json.dumps(summary))
    page = asked(Addresses(Library(world), live=True, patience=None), f"compare/{A}/{folder.name}.json")
    assert page["pairing"]["noise"] == "not shared" and "models micro and large" in page["pairing"]["words"]


def test_a_comparison_is_made_again_once_a_summary_changes(tmp_path):
    world = write_view_world(tmp_path / "results", 6, (METHOD, BASE))
    addresses = Addresses(Library(world), live=True, patience=None)
    first = addresses.answer(f"compare/{A}/{B}.json")
    assert addresses.answer(f"compare/{A}/{B}.json") is first
    path = next(world.glob(f"runs/*/*/*/{A}")) / "summary.json"
    summary = json.loads(path.read_text())
    del summary["metrics"][CLIP]
    path.write_text(json.dumps(summary))
    again = asked(addresses, f"compare/{A}/{B}.json")
    assert CLIP in {one["metric"] for one in json.loads(first.content)["differences"]}
    assert CLIP not in {one["metric"] for one in again["differences"]}
