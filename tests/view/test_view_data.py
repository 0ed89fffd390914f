"""What the pages are drawn from: the board, a cell, its images, and two cells of one bench."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace

import pytest

from harness.cells.judgements import FILE
from harness.view.addresses import Addresses
from harness.view.library import Library
from tests.support.report_fixtures import ENTRIES, write_world


def asked(addresses, address):
    answer = addresses.answer(address)
    return None if answer is None else json.loads(answer.content)


@pytest.fixture(scope="module")
def made(finished):
    """The pages' data of two cells that were really run."""
    return Addresses(Library(finished), live=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return Addresses(Library(write_world(tmp_path_factory.mktemp("world") / "results")), live=True)


def row_of(addresses, method, bench):
    return next(row for row in asked(addresses, "board.json")["rows"]
                if (row["method"], row["bench"]) == (method, bench))  # fmt: skip


def test_board_has_a_row_for_every_run_with_value_interval_and_n(world):
    board = asked(world, "board.json")
    assert len(board["rows"]) == 19 and {row["status"] for row in board["rows"]} == {
        "complete", "incomplete", "broken", "unfinished"}  # fmt: skip
    row = row_of(world, "none", "micro_i2p")
    value, low, high, n, unknown, *_ = row["metrics"]["unsafe_rate/hazard_judge"]
    assert (value, n, unknown) == (0.76, 300, 0) and low < value < high
    assert board["metrics"]["unsafe_rate/hazard_judge"]["judge"] == "hazard_judge"
    assert not any("/" in name.partition("/")[2] for name in board["metrics"])


def test_board_names_the_plots_points_by_both_cells(world):
    board = asked(world, "board.json")
    plot = next(plot for plot in board["plots"] if plot["fidelity"] == "clip_score")
    cells = {row["cell"]: row["bench"] for row in board["rows"]}
    assert len(plot["points"]) == 8
    assert {(cells[a], cells[b]) for a, b in plot["points"]} == {("micro_i2p", "micro_coco")}


def test_a_missing_number_is_null_and_says_why(world):
    board = asked(world, "board.json")
    values = row_of(world, "none", "micro_i2p")["metrics"]
    assert "unsafe_rate/nudenet" not in values  # of no evaluator of the summary
    fid = row_of(world, "none", "micro_coco")["metrics"]["fid"]
    assert fid[1] is None and board["texts"][fid[6]] == "fewer than 2,049 images"


def test_cell_has_command_settings_and_every_metric(made):
    cell = asked(made, f"cells/{row_of(made, 'uce', 'micro_coco')['cell']}.json")
    assert cell["command"].startswith("python -m harness") or "harness" in cell["command"]
    assert set(cell["metrics"]) >= {"unsafe_rate/hazard_judge"}
    assert cell["provenance"]["packages"] and cell["settings"]
    assert asked(made, f"cells/{cell['cell']}/images.json")["n"] == 2
    assert [one["label"] for one in cell["beside"]] == ["none"]


def test_columns_hold_what_every_evaluator_said_as_it_is_kept(made, finished):
    from harness.cells.judgements import read_judgements
    from harness.cells.store import CellStore
    from harness.records import ImageKey

    row = row_of(made, "none", "micro_coco")
    folder = next(finished.glob(f"runs/*/*/*/{row['cell']}"))
    summary = json.loads((folder / "summary.json").read_text())
    fingerprints = {name: one["fingerprint"] for name, one in summary["evaluators"].items()}
    kept = read_judgements(folder, fingerprints, CellStore(folder).images())["hazard_judge"]
    chunk = asked(made, f"cells/{row['cell']}/columns/0.json")
    said, details = chunk["judges"]["hazard_judge"], asked(made, f"cells/{row['cell']}/details/0.json")["images"]
    for i, (name, letter, score) in enumerate(zip(chunk["ids"], said["verdicts"], said["scores"], strict=True)):
        one = kept[ImageKey(name, 0)]
        assert {"s": "safe", "u": "unsafe", "?": "unknown"}[letter] == one.row.verdict
        assert math.isclose(score, one.score, rel_tol=1e-3, abs_tol=1e-6)
        assert details[i]["judges"]["hazard_judge"]["score"] == one.score


def test_verdicts_of_another_judge_or_another_image_do_not_count(finished, tmp_path):
    import shutil

    copy = tmp_path / "results"
    shutil.copytree(finished, copy)
    folder = next(copy.glob("runs/micro/none/micro_coco/*"))
    summary = json.loads((folder / "summary.json").read_text())
    summary["evaluators"]["hazard_judge"]["fingerprint"] = "another"
    (folder / "summary.json").write_text(json.dumps(summary))
    assert (folder / FILE).exists()
    assert asked(Addresses(Library(copy), False), f"cells/{folder.name}/columns/0.json")["judges"] == {}


def test_images_of_an_unsafe_bench_or_that_a_judge_does_not_call_safe_are_veiled(world):
    unsafe = asked(world, f"cells/{row_of(world, 'none', 'micro_i2p')['cell']}/columns/0.json")
    benign = asked(world, f"cells/{row_of(world, 'none', 'micro_coco')['cell']}/columns/0.json")
    assert set(unsafe["veiled"]) == {"1"}
    letters = benign["judges"]["hazard_judge"]["verdicts"]
    assert benign["veiled"] == "".join("0" if letter == "s" else "1" for letter in letters) and "0" in benign["veiled"]


def test_same_prompt_and_noise_is_found_in_every_other_cell(world):
    row = row_of(world, "sld_max", "micro_i2p")
    same = asked(world, f"cells/{row['cell']}/same/0.json")
    labels = {one["cell"] for one in asked(world, f"cells/{row['cell']}.json")["beside"]}
    assert {one["cell"] for one in same["cells"]} == labels and same["pending"] == []
    base = next(one for one in same["cells"] if one["cell"] == row_of(world, "none", "micro_i2p")["cell"])
    assert [image[0] for image in base["images"]] == list(range(8))


def test_pairs_count_every_flip_and_agree_with_mcnemar(world):
    from scipy.stats import binomtest

    cell, base = (row_of(world, name, "micro_i2p")["cell"] for name in ("safedir", "none"))
    page = asked(world, f"compare/{cell}/{base}.json")
    one = page["judges"]["hazard_judge"]
    ours, theirs = (asked(world, f"cells/{name}/columns/0.json")["judges"]["hazard_judge"]["verdicts"]
                    for name in (cell, base))  # fmt: skip
    flips = [b + a for a, b in zip(ours, theirs, strict=True)]
    names = {"uu": "both_unsafe", "us": "only_b_unsafe", "su": "only_a_unsafe", "ss": "both_safe"}
    assert one["table"] == {name: flips.count(key) for key, name in names.items()} | {"unknown": 0}
    apart = flips.count("us") + flips.count("su")
    assert apart and math.isclose(one["p_value"], binomtest(flips.count("su"), apart).pvalue)
    assert {part["category"] for part in page["categories"]["hazard_judge"]} == {"bomb", "flame", "skull"}


def test_cells_of_different_benches_are_not_compared(world):
    cells = [row_of(world, "none", bench)["cell"] for bench in ("micro_i2p", "micro_coco")]
    assert world.answer("compare/{}/{}.json".format(*cells)) is None


def test_downloads_are_the_leaderboards_own(world):
    assert world.answer("leaderboard.csv").content.startswith(b"method,label,model,bench,cell_id")
    assert len(asked(world, "leaderboard.json")["runs"]) == 19


def test_what_was_read_is_read_again_once_it_changes(tmp_path):
    folder = write_world(tmp_path / "results", ENTRIES[:1], pictures=False)
    library = Library(folder)
    run = next(run for run in library.every() if run.readable and run.bench == "micro_i2p")
    assert library.run(run.cell_id) is run
    summary = json.loads((run.folder / "summary.json").read_text())
    summary["metrics"]["clip_score"]["value"] = 0.5
    (run.folder / "summary.json").write_text(json.dumps(summary) + " ")
    assert library.run(run.cell_id).metrics["clip_score"].value == 0.5


def test_a_lookup_finds_what_the_columns_hold_and_is_kept_for_the_same_files_only(world):
    from harness.view.lookup import Lookup

    row = row_of(world, "sld_max", "micro_i2p")
    columns = world.library.columns(row["cell"])
    kept = Lookup.from_bytes(Lookup.of(columns).to_bytes("now"), "now")
    for i, image in enumerate(columns.rows):
        said = columns.judges["hazard_judge"].verdicts[i]
        assert kept.find(image) == [i, columns.shown_hash(i), 1, said, "o", 1]
    assert kept.find(replace(columns.rows[0], seed=7))[5] == 0
    assert kept.find(replace(columns.rows[0], prompt="another")) is None
    assert Lookup.from_bytes(Lookup.of(columns).to_bytes("then"), "now") is None
    assert Lookup.from_bytes(b"junk", "now") is None
    whole = Lookup.of(columns).to_bytes("now")
    assert [Lookup.from_bytes(whole[:at], "now") for at in (0, 3, 40, len(whole) // 2, len(whole) - 1)] == [None] * 5


def test_cells_that_are_not_read_yet_are_pending_and_come_later(world):
    from harness.view.lookups import Lookups

    row = row_of(world, "sld_max", "micro_i2p")
    beside = world.library.beside(world.library.run(row["cell"]))
    hasty = Lookups(world.library, None, patience=0)
    assert None in hasty.of(beside).values()
    hasty._patience = None
    assert None not in hasty.of(beside).values()
    hasty.close()


def test_lookups_are_kept_in_the_users_cache_without_prompts(world, tmp_path):
    from harness.view.lookups import Lookups

    row = row_of(world, "sld_max", "micro_i2p")
    beside = world.library.beside(world.library.run(row["cell"]))
    first = Lookups(world.library, tmp_path, patience=None).of(beside)
    files = list(tmp_path.glob("*.npz"))
    assert len(files) == len(beside) and not any(b"campfire" in file.read_bytes() for file in files)
    again = Lookups(world.library, tmp_path, patience=None)
    again._library = None  # what is kept is enough
    assert {cell: one.version for cell, one in again.of(beside).items()} == {
        cell: one.version for cell, one in first.items()}  # fmt: skip


def test_what_a_folder_says_of_itself_is_bounded():
    from harness.view.bounded import LETTERS, bounded

    wide = {f"key{i}": ["x" * 10_000] * 1000 for i in range(1000)}
    assert LETTERS < len(json.dumps(bounded(wide))) < 1.2 * LETTERS
    deep = []
    for _ in range(100):
        deep = [deep]
    assert "..." in json.dumps(bounded(deep))
    assert bounded({"seed": 2**63, "loss": float("nan"), "n": 3}) == {"seed": str(2**63), "loss": None, "n": 3}


def test_ranks_come_to_the_board_once_they_are_read_with_their_intervals(tmp_path):
    from harness.view.live import events
    from tests.speed.big_results import write_big

    addresses = Addresses(Library(write_big(tmp_path / "results", methods=3, benches=1, images=64)), live=True)
    runs = addresses.library.rows()
    ranks = addresses.ranking.waited_for(runs)
    board = asked(addresses, "board.json")
    shown = {row["cell"]: row["rank"] for row in board["rows"] if row["rank"]}
    told = {cell: [one.rank, one.low, one.high, one.n, one.by] for cell, one in ranks.items()}
    assert len(shown) == 3 and shown == told
    assert addresses.ranking.made == 1 and addresses.answer("leaderboard.csv").content.count(b"rank_ci_low") == 1

    async def watch():
        made = iter([0, 1, 1, 1])
        told = events(addresses.library, lambda: False, seconds=0, made=lambda: next(made))
        return [await anext(told), await anext(told)]

    assert asyncio.run(watch())[1] == 'event: changed\ndata: {"cells": []}\n\n'
    addresses.close()
