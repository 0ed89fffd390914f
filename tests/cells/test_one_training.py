"""A cell's images are its own, and of one training: nothing else in its folder counts."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from harness.__main__ import main
from harness.cells.store import CellStore
from harness.cells.tables import encode_images
from harness.cli.artifacts import main as artifacts_main
from harness.lib.hashing import file_hash
from harness.pool.tasks import GenerateTask
from harness.pool.worker import Worker
from harness.report.runs import load_runs
from tests.run.test_run import QUICK, images
from tests.support.fakes import FakeToolbox, fake_cell, fake_items
from tests.training.test_artifact_use import SAFEDIR

MORE = [*SAFEDIR, "limit=4"]
LEAN = ["baseline=null", "evaluators=[hazard_judge]", "batch_size=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return the results of two images that a direction, trained here, drew."""
    results = tmp_path_factory.mktemp("made")
    assert main([*QUICK, f"results={results}", *SAFEDIR]) == 0
    return results


@pytest.fixture
def results(made, tmp_path) -> Path:
    """Return a copy to change, with its times."""
    return Path(shutil.copytree(made, tmp_path / "results"))


def run(results: Path, *words: str) -> int:
    return main([*QUICK, f"results={results}", *words])


def cell_of(results: Path, method: str = "safedir") -> Path:
    (folder,) = results.glob(f"runs/*/{method}/*/*")
    return folder


def artifact_of(results: Path) -> Path:
    (meta,) = results.glob("artifacts/safedir/*/meta.json")
    return meta.parent


def train_otherwise(results: Path) -> str:
    """Give the stored artifact other bytes, as a training on another instruction set would; return their name."""
    folder = artifact_of(results)
    tensors = {name: value + np.float32(1e-3) for name, value in load_file(folder / "artifact.safetensors").items()}
    save_file(tensors, folder / "artifact.safetensors")
    sha256 = file_hash(folder / "artifact.safetensors")
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"sha256": sha256}))
    return sha256[:16]


def rows_of(folder: Path) -> list:
    return list(CellStore(folder, folder.name).images().values())


def without_columns(folder: Path, *names: str) -> None:
    """Make the rows those of a former version, which lacked columns; they keep their times."""
    for path in (folder / "rows").glob("*.parquet"):
        table, times = pq.read_table(path), path.stat()
        pq.write_table(table.drop_columns(list(names)), path)
        os.utime(path, (times.st_atime, times.st_mtime))


def test_every_row_says_whose_image_it_is_and_what_drew_it(made):
    folder = cell_of(made)
    sha256 = json.loads((artifact_of(made) / "meta.json").read_text())["sha256"]
    assert {(row.cell_id, row.artifact) for row in rows_of(folder)} == {(folder.name, sha256[:16])}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["cell"]["artifact"] == sha256[:16] and summary["training"]["safedir"]["sha256"] == sha256


def test_rows_of_a_method_that_trains_nothing_say_so(tmp_path):
    assert run(tmp_path, "method=none", "limit=1", *LEAN) == 0
    (row,) = rows_of(cell_of(tmp_path, "none"))
    assert row.artifact is None and row.cell_id == cell_of(tmp_path, "none").name


def test_rows_of_a_list_name_the_artifact_of_each(tmp_path):
    words = ["method=[uce,safedir]", *SAFEDIR[1:], "limit=1"]
    assert run(tmp_path, *words) == 0
    (row,) = rows_of(cell_of(tmp_path, "uce+safedir"))
    found = [next(tmp_path.glob(f"artifacts/{kind}/*/meta.json")) for kind in ("uce", "safedir")]
    metas = [json.loads(path.read_text()) for path in found]
    assert row.artifact == "+".join(meta["sha256"][:16] for meta in metas)


def test_a_deleted_artifact_is_trained_to_the_same_bytes_and_the_cell_goes_on(results):
    before = images(results)
    sha256 = file_hash(artifact_of(results) / "artifact.safetensors")
    shutil.rmtree(results / "artifacts")
    assert run(results, *MORE) == 0
    assert file_hash(artifact_of(results) / "artifact.safetensors") == sha256
    assert len(rows_of(cell_of(results))) == 4 and before.items() <= images(results).items()


def test_a_damaged_artifact_is_trained_again_and_the_cell_goes_on(results):
    file = artifact_of(results) / "artifact.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run(results, *MORE) == 0
    assert file.read_bytes() == whole and len(rows_of(cell_of(results))) == 4


def test_another_training_under_one_key_is_refused_before_anything_is_drawn(results, capsys):
    drawn, now = rows_of(cell_of(results))[0].artifact, train_otherwise(results)
    before = images(results)
    assert run(results, *MORE) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"its 2 images were generated with artifact {drawn};" in error
    assert f"{artifact_of(results)} has another training, {now}," in error
    assert f"delete {cell_of(results)}" in error
    assert images(results) == before and {row.artifact for row in rows_of(cell_of(results))} == {drawn}


def test_a_plan_says_that_the_training_is_another_one(results, capsys):
    train_otherwise(results)
    assert run(results, *MORE, "mode=plan") == 1
    assert "cannot run: " in (out := capsys.readouterr().out) and "has another training" in out


def test_what_the_error_says_helps(results, tmp_path):
    shutil.copytree(artifact_of(results), tmp_path / "former")
    now = train_otherwise(results)
    folder = artifact_of(results)
    assert run(results, *MORE) == 2
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "former", folder)
    assert run(results, *MORE) == 0
    train_otherwise(results)
    shutil.rmtree(cell_of(results))
    assert run(results, *MORE) == 0
    assert {row.artifact for row in rows_of(cell_of(results))} == {now}


def test_a_training_that_comes_to_other_bytes_fails_its_cell_and_no_other(results, capsys, monkeypatch):
    """The artifact is gone, and is made again where it comes to other bytes."""
    from methods.safedir import SafeDir

    prepare = SafeDir.prepare

    def otherwise(self, *given):
        made = prepare(self, *given)
        return replace(made, tensors={name: value + 1e-3 for name, value in made.tensors.items()})

    shutil.rmtree(results / "artifacts")
    monkeypatch.setattr(SafeDir, "prepare", otherwise)
    assert run(results, *MORE, "baseline=none") == 1
    assert "has another training" in capsys.readouterr().out
    assert len(rows_of(cell_of(results))) == 2 and len(rows_of(cell_of(results, "none"))) == 4


def test_a_cell_that_is_whole_needs_its_artifact_no_more(results):
    train_otherwise(results)
    assert run(results, *SAFEDIR) == 0
    summary = json.loads((cell_of(results) / "summary.json").read_text())
    assert summary["training"] == {}, "what is stored now did not draw these images"
    assert summary["cell"]["artifact"] == rows_of(cell_of(results))[0].artifact


def test_given_artifacts_of_other_bytes_are_other_cells(results, tmp_path):
    given = Path(shutil.copytree(artifact_of(results), tmp_path / "given"))
    assert run(tmp_path / "out", *SAFEDIR, f"artifact={given}") == 0
    train_otherwise(results)
    assert run(tmp_path / "out", *SAFEDIR, f"artifact={artifact_of(results)}") == 0
    cells = sorted((tmp_path / "out").glob("runs/*/safedir/*/*"))
    assert len(cells) == 2 and len({rows_of(cell)[0].artifact for cell in cells}) == 2


def test_of_two_trainings_in_one_folder_the_most_images_count(results, tmp_path):
    """Two results folders are copied over each other: two images of one training, four of another."""
    other = Path(shutil.copytree(results, tmp_path / "other"))
    shutil.rmtree(cell_of(other))
    now = train_otherwise(other)
    assert run(other, *MORE) == 0
    shutil.copytree(other / "runs", results / "runs", dirs_exist_ok=True)
    store = CellStore(cell_of(results), cell_of(results).name)
    assert {row.artifact for row in store.images().values()} == {now} and len(store.done()) == 4
    assert "2 images were generated with another training than the others" in store.problems["rows"]


def test_rows_of_former_versions_count_if_the_artifact_was_there_before_them(results):
    without_columns(cell_of(results), "artifact", "cell_id")
    assert {(row.artifact, row.cell_id) for row in rows_of(cell_of(results))} == {(None, None)}
    assert run(results, *MORE) == 0
    assert sorted(str(row.artifact) for row in rows_of(cell_of(results)))[2:] == ["None", "None"]


def test_rows_of_former_versions_are_not_mixed_with_a_younger_training(results, capsys):
    without_columns(cell_of(results), "artifact", "cell_id")
    train_otherwise(results)
    os.utime(artifact_of(results) / "meta.json", (2e9, 2e9))
    assert run(results, *MORE) == 2
    assert "were generated before the current artifact was stored" in capsys.readouterr().err


def test_a_worker_refuses_an_artifact_that_is_not_the_one_of_the_run(tmp_path):
    cell = replace(fake_cell(tmp_path / "cell"), artifact="0123456789abcdef")
    from harness.errors import IncompatibleError

    with pytest.raises(IncompatibleError, match="0123456789abcdef was replaced by None"):
        Worker("w", toolbox=FakeToolbox(tmp_path / "notes")).run(GenerateTask("t", cell, tuple(fake_items(2))))
    assert not (tmp_path / "cell").exists()


def test_images_of_another_cell_in_the_folder_are_made_again(tmp_path):
    """Whose rows they are is told by none of prompt, seed and sha256: the two cells differ in their method."""
    assert main(["-m", *QUICK, f"results={tmp_path}", "method=none,sld_max", "limit=2", *LEAN]) == 0
    own, other = cell_of(tmp_path, "none"), cell_of(tmp_path, "sld_max")
    expected = {path.name: path.read_bytes() for path in own.glob("images/*/*.png")}
    for part in ("images", "rows", "scores"):
        shutil.rmtree(own / part)
        shutil.copytree(other / part, own / part)
    assert not CellStore(own, own.name).done()
    assert run(tmp_path, "method=none", "limit=2", *LEAN) == 0
    assert {path.name: path.read_bytes() for path in own.glob("images/*/*.png")} == expected
    assert {row.cell_id for row in rows_of(own)} == {own.name}


def test_rows_of_former_versions_of_other_prompts_or_seeds_are_made_again(tmp_path):
    assert run(tmp_path, "method=none", "limit=2", *LEAN) == 0
    folder = cell_of(tmp_path, "none")
    expected, rows = images(tmp_path), rows_of(folder)
    for path in (folder / "rows").glob("*"):
        path.unlink()
    foreign = [replace(rows[0], seed=rows[0].seed + 1), replace(rows[1], prompt="another one")]
    (folder / "rows" / "a.parquet").write_bytes(encode_images(foreign))
    without_columns(folder, "artifact", "cell_id")
    assert run(tmp_path, "method=none", "limit=2", *LEAN) == 0
    assert images(tmp_path) == expected
    assert {(row.prompt, row.seed) for row in rows_of(folder)} == {(row.prompt, row.seed) for row in rows}


def test_a_summary_of_another_cell_is_broken_and_never_the_cells_own(tmp_path):
    for name, cell_id in (("none", "aaaa"), ("sld_max", "bbbb")):
        folder = tmp_path / "runs" / "micro" / name / "micro_i2p" / "aaaa"
        folder.mkdir(parents=True)
        summary = {"schema": 1, "status": "complete", "metrics": {},
                   "cell": {"id": cell_id, "model": "micro", "method": name, "bench": "micro_i2p"}}
        (folder / "summary.json").write_text(json.dumps(summary))
    own, other = load_runs(tmp_path)
    assert own.status == "complete"
    assert other.status == "broken" and other.problems == ("summary.json: it belongs to cell bbbb",)


def test_a_folder_of_another_name_can_still_be_judged(made, tmp_path, capsys):
    from harness.cli.score import main as score_main

    moved = Path(shutil.copytree(cell_of(made), tmp_path / "renamed"))
    assert score_main([str(moved), "evaluator=degenerate", "leaderboard=false"]) == 0
    assert "2" in capsys.readouterr().out and len(CellStore(moved).images()) == 2


def test_a_list_of_artifacts_names_their_content(made, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert artifacts_main(["--root", str(made / "artifacts"), "list"]) == 0
    assert rows_of(cell_of(made))[0].artifact in capsys.readouterr().out
