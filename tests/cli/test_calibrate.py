"""`python -m harness calibrate`: the embedded world knows what it drew, so its judge can be calibrated."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from harness.bench.labelled import read_labelled
from harness.cells.calibration import read_calibration
from harness.cli.calibrate import main
from harness.evaluator import CompositeEvaluator
from harness.evaluators.identity import EvaluatorKey
from harness.metrics import wilson_interval
from harness.micro.hazard_judge import HazardJudge
from harness.micro.world import render, sample_scene
from harness.pool.engine import EngineToolbox
from harness.records import ScoreRow, Verdict
from tests.support.calibration_world import N, calibrated, labels_of, seen_unsafe, write_labels

pytest_plugins = ["tests.support.calibration_fixtures"]


class Either(CompositeEvaluator):
    """Unsafe where the judge says so at its own threshold, or at a lower one."""

    parts = ("hazard_judge", "wary_judge")

    def __init__(self, name):
        self.name = name

    def identity(self):
        return {"parts": list(self.parts)}

    def combine(self, rows):
        first = rows[self.parts[0]]
        unsafe = any(row.verdict is Verdict.UNSAFE for row in rows.values())
        return ScoreRow(first.prompt_id, first.repeat, Verdict.UNSAFE if unsafe else Verdict.SAFE)


def refused(capsys, *words):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_sensitivity_and_specificity_are_those_of_the_judge_on_what_was_drawn(world, written):
    truth, seen = seen_unsafe(world)
    plain = yaml.safe_load(written.read_text())
    assert plain["counts"] == {
        "unsafe_as_unsafe": int((truth & seen).sum()), "unsafe_as_safe": int((truth & ~seen).sum()),
        "unsafe_unknown": 0, "safe_as_safe": int((~truth & ~seen).sum()),
        "safe_as_unsafe": int((~truth & seen).sum()), "safe_unknown": 0,
    }  # fmt: skip
    interval = plain["sensitivity"]["ci_low"], plain["sensitivity"]["ci_high"]
    assert plain["sensitivity"]["value"] == (truth & seen).sum() / truth.sum() < 0.95
    assert interval == wilson_interval(int((truth & seen).sum()), int(truth.sum()))
    assert plain["specificity"]["value"] == (~truth & ~seen).sum() / (~truth).sum()
    assert plain["precision"]["value"] == (truth & seen).sum() / seen.sum()


def test_file_names_the_evaluator_and_the_data(world, written):
    own, judge = read_calibration(written), HazardJudge("hazard_judge")
    assert written.parts[-3:] == ("calibrations", "hazard_judge", f"{own.fingerprint}.yaml")
    assert own.fingerprint == EvaluatorKey.of(judge).fingerprint
    assert own.about["identity"] == json.loads(json.dumps(dict(judge.identity())))
    assert own.data_sha256 == read_labelled(world).sha256()
    assert str(world.parent) not in written.read_text()


def test_subfolders_of_the_same_images_count_the_same_and_the_terminal_says_what(world, written, tmp_path, capsys):
    for name, label in labels_of(world).items():
        place = tmp_path / "data" / ("unsafe" if label == "1" else "safe") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(world / name, place)
    (tmp_path / "data" / "safe" / ".DS_Store").write_bytes(b"x")
    again = read_calibration(calibrated(tmp_path / "data", tmp_path, "batch_size=7"))
    assert again.counts == read_calibration(written).counts
    text = capsys.readouterr().out
    for word in ("sensitivity: ", "specificity: ", "precision: ", "0 unknown", "written: ", f"{N} images"):
        assert word in text


def test_data_hash_changes_with_names_labels_and_contents_only(world, tmp_path):
    own = read_labelled(world).sha256()
    copy = tmp_path / "copy"
    shutil.copytree(world, copy)
    rows = list(labels_of(copy).items())
    write_labels(copy, rows[::-1])
    assert read_labelled(copy).sha256() == own
    write_labels(copy, [(rows[0][0], 1 - int(rows[0][1])), *rows[1:]])
    assert read_labelled(copy).sha256() != own
    write_labels(copy, rows)
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(copy / rows[0][0])
    assert read_labelled(copy).sha256() != own
    shutil.copy(world / rows[0][0], copy / rows[0][0])
    (copy / rows[0][0]).rename(copy / "renamed.png")
    write_labels(copy, [("renamed.png", rows[0][1]), *rows[1:]])
    assert read_labelled(copy).sha256() != own


def test_images_without_a_verdict_are_counted_apart(world, tmp_path, capsys):
    for name in ("000.png", "001.png", "099.png"):
        shutil.copy(world / name, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    rows = [("000.png", 1), ("001.png", 1), ("099.png", 0), ("broken.png", 1), ("black.png", 0)]
    write_labels(tmp_path, rows)
    counts = read_calibration(calibrated(tmp_path, tmp_path)).counts
    assert (counts.unsafe_unknown, counts.safe_unknown) == (1, 1)
    assert counts.unsafe_as_unsafe + counts.unsafe_as_safe == 2
    assert counts.safe_as_safe + counts.safe_as_unsafe == 1
    assert "1 unknown: " in capsys.readouterr().out


def test_another_threshold_is_another_calibration(world, written, tmp_path):
    strict = calibrated(world, tmp_path, "evaluator.hazard_judge.threshold=0.9")
    assert strict.name != written.name
    assert read_calibration(strict).counts.unsafe_as_unsafe == (lambda t, s: (t & s).sum())(*seen_unsafe(world, 0.9))
    assert read_calibration(strict).counts.unsafe_as_unsafe < read_calibration(written).counts.unsafe_as_unsafe


def test_the_judge_computes_with_the_threads_of_the_environment(world, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(EngineToolbox, "start", lambda self, device, threads: seen.append(threads) or "cpu")
    calibrated(world, tmp_path)
    assert seen == [3]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("evaluator=hazard_juge",), "hazard_judge"),
        (("evaluator=clip_score_micro",), "gives no verdicts"),
        (("evaluator=fid_micro",), "gives no verdicts"),
        (("evaluator=hazard_judge", "evaluator.nudenet.threshold=0.5"), "evaluator of this calibration"),
        (("evaluator=hazard_judge", "evaluator.hazard_judge.treshold=0.5"), "threshold"),
        (("evaluator=hazard_judge", "batch_size=0"), "batch_size"),
        (("evaluator=hazard_judge", "device=gpu"), "device"),
        (("evaluator=hazard_judge", "dat=x"), "data"),
        (("evaluator=hazard_judge", "word"), "not a setting"),
        (("evaluator=hazard_judge,nudenet",), "one evaluator"),
        (("-m", "evaluator=hazard_judge"), "unknown flag of python -m harness calibrate"),
        ((), "evaluator= is missing"),
    ],
)
def test_mistake_is_one_line_and_exit_2(world, tmp_path, capsys, words, says):
    assert says in refused(capsys, *words, f"data={world}", f"results={tmp_path}")
    assert not (tmp_path / "calibrations").exists()


def test_evaluator_whose_weights_are_not_there_says_how_to_get_them(world, tmp_path, capsys, nothing_cached):
    error = refused(capsys, "evaluator=q16", f"data={world}", f"results={tmp_path}")
    assert "q16: " in error


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("a.png", 1), ("b.png", 1)], "no image labelled safe"),
        ([("a.png", 1), ("gone.png", 0)], "1 of 2 images"),
        ([("a.png", 1), ("b.png", "nsfw")], "'nsfw' is not a label"),
        ([("a.png", 1), ("b.png", "")], "'' is not a label"),
        ([("a.png", 1), ("./a.png", 0)], "more than once"),
        ([("a.png", 1), ("../b.png", 0)], "not an image in the folder"),
        ([("a.png", 1), ("same.png", 0)], "the same image"),
        ([], "no image labelled unsafe"),
    ],
)
def test_bad_labels_are_one_line_and_nothing_is_loaded(tmp_path, capsys, monkeypatch, rows, says):
    monkeypatch.setattr(HazardJudge, "setup", lambda self, device: pytest.fail("weights were loaded"))
    for name, grey in (("a.png", 10), ("same.png", 10), ("b.png", 200)):
        Image.new("RGB", (8, 8), (grey, grey, 90)).save(tmp_path / name)
    write_labels(tmp_path, rows)
    assert says in refused(capsys, "evaluator=hazard_judge", f"data={tmp_path}", f"results={tmp_path / 'results'}")


@pytest.mark.parametrize("content", [None, "name,label\na.png,1\n", "\xff\xfe"])
def test_folder_without_labels_says_what_to_give(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "labels.csv").write_bytes(content.encode("latin-1"))
    error = refused(capsys, "evaluator=hazard_judge", f"data={tmp_path}", f"results={tmp_path}")
    assert "labels" in error
    assert "no folder at" in refused(capsys, "evaluator=hazard_judge", f"data={tmp_path / 'x'}")


def test_judge_that_fails_on_every_unsafe_image_calibrates_nothing(tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    Image.fromarray(render(sample_scene(np.random.default_rng(0), "figure"))).save(tmp_path / "figure.png")
    write_labels(tmp_path, [("black.png", "unsafe"), ("figure.png", "safe")])
    error = refused(capsys, "evaluator=hazard_judge", f"data={tmp_path}", f"results={tmp_path}")
    assert "there is no sensitivity: no unsafe image got a verdict: black.png: degenerate image" in error
    assert not list(tmp_path.rglob("*.yaml"))


def test_union_of_two_judges_is_calibrated_from_their_verdicts(world, written, tmp_path):
    config = tmp_path / "conf" / "evaluator"
    config.mkdir(parents=True)
    (config / "either.yaml").write_text("name: either\n_target_: test_calibrate.Either\n")
    wary = "name: wary_judge\n_target_: harness.micro.hazard_judge.HazardJudge\nthreshold: 0.1\n"
    (config / "wary_judge.yaml").write_text(wary)
    write_labels(tmp_path, [(name, label) for name, label in labels_of(world).items() if int(name[:3]) % 5 == 0])
    for name in labels_of(tmp_path):
        shutil.copy(world / name, tmp_path)
    words = ["evaluator=either", f"data={tmp_path}", f"results={tmp_path}", "--config-dir", str(tmp_path / "conf")]
    assert main(words) == 0
    (path,) = tmp_path.glob("calibrations/either/*.yaml")
    counts, (truth, seen) = read_calibration(path).counts, seen_unsafe(tmp_path, 0.1)
    assert counts.unsafe_as_unsafe == (truth & seen).sum() > (truth & seen_unsafe(tmp_path)[1]).sum()
    assert counts.safe_as_safe == (~truth & ~seen).sum()


def test_help_and_no_words_load_nothing():
    done = subprocess.run([sys.executable, "-m", "harness", "calibrate"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.startswith("Measure the accuracy")
