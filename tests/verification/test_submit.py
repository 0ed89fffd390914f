"""A bundle for a public board: checked without the images, and without anything that is not for the public."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cells.hashes import write_hashes
from harness.cells.store import CellStore
from harness.errors import HarnessError
from harness.lib.hashing import file_hash
from harness.verification import is_bundle, verify_bundle, write_bundle


@pytest.fixture
def run(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "results")
    (folder,) = (tmp_path / "results").glob("runs/micro/uce/micro_coco/*")
    return folder


@pytest.fixture
def bundle(run, tmp_path) -> Path:
    return write_bundle([run], tmp_path / "submission").folder


def test_a_bundle_is_verified_without_the_results_folder(bundle, run):
    shutil.rmtree(run.parents[4])
    assert is_bundle(bundle)
    checked = verify_bundle(bundle)
    assert len(checked) == 2 and all(one.matches for one in checked), checked
    assert checked[0].n_numbers == 5
    assert "fid: the features of its images are not here" in checked[0].unchecked


def test_a_bundle_has_no_pixels_prompts_or_names(bundle, run):
    names = [path.name for path in bundle.rglob("*") if path.is_file()]
    assert not [name for name in names if Path(name).suffix not in (".json", ".yaml", ".parquet", ".md")]
    content = b"".join(path.read_bytes() for path in bundle.rglob("*") if path.is_file())
    assert b"\x89PNG" not in content and b"JFIF" not in content
    made = json.loads((run / "provenance.json").read_text())
    rows = list(CellStore(run).images().values())
    kept = list(CellStore(next(bundle.glob("runs/*/uce/*/*"))).images().values())
    assert [row.sha256 for row in kept] == [row.sha256 for row in rows]
    assert all(row.prompt.startswith("sha256:") and row.host is None for row in kept)
    private = [row.prompt for row in rows] + [made["host"], str(Path.home())]
    assert not [text for text in private if text.encode() in content]
    told = json.loads(next(bundle.glob("runs/*/uce/*/*/provenance.json")).read_text())
    assert "user" not in told and "host" not in told and told["packages"] == made["packages"]


def test_the_baseline_comes_along_so_that_differences_are_counted_again(bundle):
    told = json.loads((bundle / "bundle.json").read_text())
    assert len(told["runs"]) == len(told["baselines"]) == 1
    assert not [one for one in verify_bundle(bundle)[0].unchecked if one.startswith("against")]


def change_a_number(bundle: Path) -> None:
    """Change a number, and every hash that covers it."""
    (path,) = bundle.glob("runs/*/uce/*/*/summary.json")
    summary = json.loads(path.read_text())
    summary["metrics"]["unsafe_rate/hazard_judge"]["value"] = 0.5
    path.write_text(json.dumps(summary))
    write_hashes(path.parent)
    rehash(bundle)


def rehash(bundle: Path) -> None:
    told = json.loads((bundle / "bundle.json").read_text())
    told["files"] = {name: file_hash(bundle / name) for name in told["files"]}
    (bundle / "bundle.json").write_text(json.dumps(told))


CHANGES = {
    "a number": (change_a_number, "unsafe_rate/hazard_judge: value is 0.5 in summary.json, and 0 counted again"),
    "a byte": (lambda b: (b / "README.md").write_text("x"), "README.md: not of the sha256 in bundle.json"),
    "an image": (lambda b: (b / "runs" / "a.png").write_bytes(b"x"), "runs/a.png: bundle.json does not name it"),
    "a link": (lambda b: (b / "x").symlink_to("/etc/hostname"), "x: bundle.json does not name it"),
    "a file less": (lambda b: (b / "README.md").unlink(), "README.md: missing"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_bundle_that_was_changed_is_not_verified(bundle, what, capsys):
    change, problem = CHANGES[what]
    change(bundle)
    assert main(["verify", str(bundle)]) == 1
    assert f"does not match: {problem}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["/etc", "../x", "runs/../../x"])
def test_a_bundle_that_names_files_elsewhere_is_refused(bundle, name):
    told = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**told, "runs": [name]}))
    with pytest.raises(HarnessError, match="bundle schema"):
        verify_bundle(bundle)


def refused(run: Path, out: Path, match: str) -> None:
    with pytest.raises(HarnessError, match=match):
        write_bundle([run], out)
    assert not out.exists()


def test_incomplete_changed_and_old_runs_are_refused(run, tmp_path):
    out, path = tmp_path / "submission", run / "summary.json"
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), "status": "incomplete", "incomplete": ["1 image"]}))
    write_hashes(run)
    refused(run, out, "is incomplete, and only complete runs are submitted")
    path.write_text(whole)
    refused(run, out, "is not verified: summary.json: not of the sha256")
    write_hashes(run)
    next(run.glob("images/*/*.png")).unlink()
    refused(run, out, "is not verified: images/")
    (run / "verdicts.parquet").unlink()
    write_hashes(run)
    refused(run, out, "has no verdicts.parquet")


def test_a_folder_that_is_in_use_is_not_written_to(run, tmp_path):
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "mine").touch()
    with pytest.raises(HarnessError, match="already exists and is not empty"):
        write_bundle([run], tmp_path / "submission")
    assert [path.name for path in (tmp_path / "submission").iterdir()] == ["mine"]


def test_the_command_says_how_to_check_the_bundle(run, tmp_path, capsys):
    assert main(["submit", str(run), f"out={tmp_path / 'mine'}"]) == 0
    said = capsys.readouterr().out
    assert "1 runs and 1 that they are compared with" in said and f"verify {tmp_path / 'mine'}" in said
    assert main(["submit"]) == 2
    assert main(["verify", str(tmp_path / "mine")]) == 0
