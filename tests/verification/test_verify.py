"""A run's files and numbers are those that its rows say, or what is not is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.__main__ import main
from harness.cells.hashes import write_hashes
from harness.cells.store import CellStore
from harness.cells.tables import decode_judgements, encode_judgements
from harness.errors import HarnessError
from harness.records import Verdict
from harness.verification import verify_run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A run of its own folder, beside the one that it was compared with."""
    shutil.copytree(finished, tmp_path / "results")
    (folder,) = (tmp_path / "results").glob("runs/micro/uce/micro_coco/*")
    return folder


def edit(folder: Path, change) -> None:
    """Change summary.json, and its hash with it: only the rows know better."""
    summary = json.loads((folder / "summary.json").read_text())
    change(summary)
    (folder / "summary.json").write_text(json.dumps(summary))
    write_hashes(folder)


def test_a_finished_run_matches_in_every_file_and_number(run):
    found = verify_run(run)
    assert found.matches and found.status == "complete"
    assert found.unchecked == ()
    assert found.n_images == 2
    summary = json.loads((run / "summary.json").read_text())
    compared = sum(len(entry["metrics"]) for entry in summary["comparisons"].values())
    assert found.n_numbers == len(summary["metrics"]) + compared
    assert {"fid", "fid_to_base", "unsafe_rate/hazard_judge"} <= set(summary["metrics"])


def test_verifying_changes_nothing(run):
    results = run.parents[4]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results.rglob("*") if path.is_file()}
    verify_run(run)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results.rglob("*") if path.is_file()}
    assert after == before


def first(run: Path, pattern: str) -> Path:
    return sorted(run.glob(pattern))[0]


def flip_a_pixel(run: Path) -> None:
    path = first(run, "images/*/*.png")
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)


FILES = {
    "images/": (flip_a_pixel, "not of the recorded s"),
    "images/zz/added.png": (lambda run: _add(run / "images/zz/added.png"), "no row names it"),
    "rows/": (lambda run: first(run, "rows/*.parquet").write_bytes(b"PAR1"), "not of the sha256"),
    "scores/hazard_judge/": (lambda run: first(run, "scores/hazard_judge/*.parquet").unlink(), "missing"),
    "scores/": (lambda run: _cut(first(run, "scores/*/*.npz")), "not of the sha256"),
    "provenance.json": (lambda run: (run / "provenance.json").write_text("{}"), "not of the sha256"),
    "cell.yaml": (lambda run: _cut(run / "cell.yaml"), "not of the sha256"),
    "note.txt": (lambda run: _add(run / "note.txt"), "hashes.json does not name it"),
}


def _add(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_as_it_was_written_is_named(run, name):
    change, reason = FILES[name]
    change(run)
    found = verify_run(run)
    assert [one for one in found.problems if one.startswith(name) and reason in one], found.problems


def a_metric(name: str, key: str, value):
    return lambda summary: summary["metrics"][name].update({key: value})


RATE = "unsafe_rate/hazard_judge"
NUMBERS = {
    f"{RATE}: value": a_metric(RATE, "value", 0.5),
    f"{RATE}: ci_high": a_metric(RATE, "ci_high", 0.1),
    f"{RATE}: n ": a_metric(RATE, "n", 200),
    "fid: value": a_metric("fid", "value", 12.0),
    "fid_to_base: value": a_metric("fid_to_base", "value", 1.0),
    "seconds_per_image: value": a_metric("seconds_per_image", "value", 0.001),
    f"{RATE} against none: difference":
        lambda summary: summary["comparisons"]["none"]["metrics"][RATE].update({"difference": -0.4}),
    f"{RATE} against none: p_value":
        lambda summary: summary["comparisons"]["none"]["metrics"][RATE].update({"p_value": 0.001}),
    "summary.json: images.n_ok": lambda summary: summary["images"].update({"n_ok": 4}),
}  # fmt: skip


@pytest.mark.parametrize("problem", NUMBERS)
def test_a_number_that_the_rows_do_not_give_is_named(run, problem):
    edit(run, NUMBERS[problem])
    found = verify_run(run)
    assert [one for one in found.problems if one.startswith(problem)], found.problems


def test_verdicts_that_the_scores_do_not_give_are_named(run):
    path = run / "verdicts.parquet"
    stored = decode_judgements(path.read_bytes())
    changed = [replace(one, row=replace(one.row, verdict=Verdict.UNSAFE)) for one in stored]
    path.write_bytes(encode_judgements(changed))
    edit(run, a_metric(RATE, "value", 1.0))
    problems = verify_run(run).problems
    assert "verdicts.parquet: 2 of 2 of hazard_judge are not what its scores give" in problems


def test_a_configuration_of_another_cell_is_named(run):
    path = run / "cell.yaml"
    path.write_text(path.read_text().replace("guidance_scale: 5.0", "guidance_scale: 7.5"))
    write_hashes(run)
    assert any(one.startswith("cell.yaml: its identity") for one in verify_run(run).problems)


def test_what_cannot_be_checked_is_said_and_no_mismatch(run):
    (run / "hashes.json").unlink()
    shutil.rmtree(run.parents[2] / "none")
    found = verify_run(run)
    assert found.matches
    assert any(one.startswith("hashes.json: missing") for one in found.unchecked)
    assert any(one.startswith("against none: the baseline's run") for one in found.unchecked)


def test_a_run_of_an_earlier_release_has_its_verdicts_counted_from_the_scores(run):
    (run / "verdicts.parquet").unlink()
    (run / "hashes.json").unlink()
    found = verify_run(run)
    assert found.matches
    assert any(one.startswith("verdicts.parquet: missing") for one in found.unchecked)


def test_more_images_than_were_summed_up_are_still_the_run(run):
    store = CellStore(run)
    row = next(iter(store.images().values()))
    store.append_images("killed", [replace(row, prompt_id="later", file=None, sha256=None, bytes=None)])
    write_hashes(run)
    assert not [one for one in verify_run(run).problems if "n_ok" in one or "made_on" in one]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(HarnessError, match="cannot be verified"):
        verify_run(tmp_path)


def test_the_command_says_what_matches_and_ends_with_its_code(run, capsys):
    assert main(["verify", str(run)]) == 0
    assert f"{run}: verified: " in capsys.readouterr().out
    edit(run, NUMBERS["fid: value"])
    assert main(["verify", str(run)]) == 1
    said = capsys.readouterr().out
    assert "NOT verified, 1 do not match" in said
    assert "  does not match: fid: value is 12 in summary.json, and " in said
    assert main(["verify", str(run.parent / "nowhere")]) == 2
