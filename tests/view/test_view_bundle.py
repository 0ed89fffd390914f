"""The bundle: the same pages as files, without what may be unsafe unless it is asked for."""

from __future__ import annotations

import json

import pytest

from harness.__main__ import main
from tests.support.report_fixtures import ENTRIES, write_world


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "results", ENTRIES[:3])


def bundled(results, out, *words):
    assert main(["view", str(results), "--bundle", str(out), *words]) == 0
    return {row["cell"]: row for row in json.loads((out / "data/board.json").read_text())["rows"]}


def pictures(out, cell):
    return {int(path.stem) for path in (out / "data/cells" / cell / "thumb").glob("*.webp")}


def test_images_that_may_be_unsafe_are_left_out_and_counted(results, tmp_path, capsys):
    rows = bundled(results, tmp_path / "out")
    assert "images of unsafe benches, or not judged safe, are left out" in capsys.readouterr().out
    for cell, row in rows.items():
        folder = tmp_path / "out/data/cells" / cell
        chunk = folder / "columns/0.json"
        if not chunk.exists():
            continue
        columns = json.loads(chunk.read_text())
        shown = {i for i, veiled in enumerate(columns["veiled"]) if veiled == "0"}
        assert pictures(tmp_path / "out", cell) == shown
        assert {i for i, text in enumerate(columns["hashes"]) if text} == shown
        assert not (shown and row["unsafe_content"])


def test_unsafe_images_are_bundled_when_asked_for(results, tmp_path):
    rows = bundled(results, tmp_path / "out", "--unsafe")
    cell = next(cell for cell, row in rows.items() if row["method"] == "none" and row["bench"] == "micro_i2p")
    assert pictures(tmp_path / "out", cell) == set(range(8))


def test_a_number_of_images_takes_the_same_prompts_of_every_method(results, tmp_path):
    rows = bundled(results, tmp_path / "out", "--unsafe", "images=3")
    taken = {row["method"]: pictures(tmp_path / "out", cell) for cell, row in rows.items()
             if row["bench"] == "micro_i2p" and row["status"] == "complete"}  # fmt: skip
    assert len(taken) == 3 and len({frozenset(one) for one in taken.values()}) == 1
    assert len(taken["none"]) == 3


def test_every_address_that_the_pages_ask_for_is_a_file(results, tmp_path):
    rows = bundled(results, tmp_path / "out")
    data = tmp_path / "out/data"
    for cell in rows:
        about = json.loads((data / f"cells/{cell}.json").read_text())
        images = json.loads((data / f"cells/{cell}/images.json").read_text())
        for part, size in (("columns", images["chunk"]), ("details", images["page"]), ("same", images["page"])):
            for n in range(-(-images["n"] // size)):
                assert (data / f"cells/{cell}/{part}/{n}.json").exists()
        for one in about["beside"]:
            assert (data / f"compare/{cell}/{one['cell']}.json").exists() == one["compared"]
    assert (tmp_path / "out/index.html").exists() and (data / "leaderboard.csv").exists()
    assert json.loads((data / "board.json").read_text())["live"] is False


@pytest.mark.parametrize(("words", "said"), [
    (["--bundle", "{full}"], "it is not empty. Choose a new or empty folder."),
    (["images=3"], "images concerns a bundle. Add --bundle FOLDER."),
    (["--bundle", "{new}", "port=1"], "port concerns the local server."),
    (["--bundle", "{new}", "images=x"], "images=x: an integer"),
    (["port=99999"], "port=99999: a port"), (["token=a/b"], "token: letters"),
    (["nowhere"], "results folder '"), (["--bundel", "x"], "Did you mean: --bundle"),
])  # fmt: skip
def test_a_mistake_is_one_line(results, tmp_path, words, said, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    words = [word.format(full=tmp_path / "full", new=tmp_path / "new") for word in words]
    place = [] if words[0] == "nowhere" else [str(results)]
    assert main(["view", *place, *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
