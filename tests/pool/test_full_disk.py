"""A disk that is full, in whatever stage, ends the run with one line that says so; the same command goes on after."""

from __future__ import annotations

import errno
import fnmatch
import os
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cells.store import CellStore
from tests.run.test_run import QUICK

FIRST = {  # what is written, in the order in which a run writes it
    "lease": ".lease-clock-*|.probe-*",
    "training": "artifact.safetensors",
    "image": "images/??/*.png",
    "image rows": "rows/*.parquet",
    "scores": "scores/hazard_judge/*.parquet",
    "reference set": "artifacts/*.npz",
    "features": "scores/*/features-*.npz",
    "cell": "cell.yaml",
    "provenance": "provenance.json",
    "summary": "summary.json",
    "speeds": "throughput.json",
    "board": "leaderboard.html",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def words(results: Path) -> list[str]:
    own = ["method=uce", "bench=micro_coco", "baseline=null", "limit=2", "batch_size=2"]
    return [*QUICK, f"results={results}", "leaderboard=true", "evaluators=[hazard_judge,fid_micro]", *own]


@pytest.mark.parametrize("stage", FIRST)
def test_full_disk_is_said_in_every_stage(
    results: Path, stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, refused = os.replace, list[str]()

    def full(source: str | Path, target: str | Path) -> None:
        if any(fnmatch.fnmatch(str(target), f"*/{pattern}") for pattern in FIRST[stage].split("|")):
            refused.append(str(target))
            raise OSError(errno.ENOSPC, "no space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert main(words(results)) == 2
    said = capsys.readouterr().err
    text = "the disk is full. Free some space, then run the same command again."
    assert any(f"cannot write {path}: {text}" in said for path in refused)
    assert said.count("\n") == 1
    assert not (results / ".lease.json").exists()


def test_what_full_disks_left_is_gone_on_with(results: Path) -> None:
    assert main(words(results)) == 0
    (folder,) = results.glob("runs/*/*/*/*")
    assert len(CellStore(folder).done()) == 2
    assert CellStore(folder).strays() == []
