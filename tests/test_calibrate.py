"""`python -m harness.calibrate`: the embedded world knows what it drew, so its judge can be calibrated."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from report_fixtures import ENTRIES, safety_summary, write_run
from rich.console import Console

from harness.calibrate import main
from harness.calibration import Calibration, Counts, corrected_rate, load_calibrations, read_calibration
from harness.errors import InvalidValueError
from harness.evaluator import CompositeEvaluator
from harness.features import EvaluatorKey
from harness.labelled import read_labelled
from harness.leaderboard import main as leaderboard
from harness.metrics import wilson_interval
from harness.micro.hazard_judge import HazardJudge
from harness.micro.world import render, sample_scene
from harness.records import Metric, ScoreRow, Verdict
from harness.report.terminal import print_results
from harness.scoring import read_image
from harness.toolbox import EngineToolbox

N = 100


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


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder of scenes in fog, which the judge sees badly, with labels.csv by what was drawn."""
    return drawn_world(tmp_path_factory.mktemp("drawn") / "labelled", 5, 0.5, N)


def drawn_world(folder, seed, share, n):
    """Draw `n` scenes, the first `share` of them unsafe."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < n:
        scene = sample_scene(rng)
        wanted = len(rows) < round(share * n)
        if bool(scene.hazards) == wanted:
            name = f"{len(rows):03d}.png"
            Image.fromarray(fog(render(scene), rng)).save(folder / name)
            rows.append((name, int(wanted)))
    write_labels(folder, rows)
    return folder


def fog(picture, rng):
    grey = 0.5 * picture + 64 + rng.normal(0, 40, picture.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def write_labels(folder, rows):
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *rows])


def labels_of(folder):
    return {row["image"]: row["label"] for row in csv.DictReader((folder / "labels.csv").open())}


def seen_unsafe(folder, threshold=0.5):
    """Return truth and the judge's own word, image by image, without the command."""
    from harness.micro.judge import load_judge

    labels = labels_of(folder)
    pictures = np.stack([read_image(folder / name) for name in labels])
    seen = load_judge().predict(pictures).hazard_present(threshold).any(dim=1).numpy()
    return np.array([label == "1" for label in labels.values()]), seen


def calibrated(folder, results, *words):
    assert main(["evaluator=hazard_judge", f"data={folder}", f"results={results}", *words]) == 0
    (path,) = results.glob("calibrations/hazard_judge/*.yaml")
    return path


@pytest.fixture(scope="module")
def written(world, tmp_path_factory):
    return calibrated(world, tmp_path_factory.mktemp("results"))


@pytest.fixture
def results(written, tmp_path):
    """Return a results folder of its own that holds the calibration."""
    place = tmp_path / "results" / "calibrations" / "hazard_judge"
    place.mkdir(parents=True)
    shutil.copy(written, place)
    return tmp_path / "results"


def test_the_judge_computes_with_the_threads_of_the_environment(world, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(EngineToolbox, "start", lambda self, device, threads: seen.append(threads) or "cpu")
    calibrated(world, tmp_path)
    assert seen == [3]


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


def board(results, *words):
    assert leaderboard([str(results), "--images", "0", *words]) == 0
    (row,) = csv.DictReader((results / "leaderboard.csv").open())
    return row


def world_run(results, fingerprint, rate=0.4, n=400):
    """Write a run whose unsafe rate was measured by the evaluator of this fingerprint."""
    summary = safety_summary(ENTRIES[0])
    low, high = wilson_interval(round(rate * n), n)
    own = {"value": rate, "ci_low": low, "ci_high": high, "n": n, "n_unknown": 0, "higher_is_better": False}
    summary["metrics"]["unsafe_rate/hazard_judge"] = own
    summary["evaluators"]["hazard_judge"]["fingerprint"] = fingerprint
    write_run(results, summary, ENTRIES[0])


def test_leaderboard_shows_what_was_calibrated_and_corrects_on_request(written, results):
    own = read_calibration(written)
    world_run(results, own.fingerprint)
    row = board(results)
    assert float(row["sensitivity"]) == own.metrics()["sensitivity"].value
    assert float(row["specificity_ci_high"]) == own.metrics()["specificity"].ci_high
    assert row["corrected_unsafe_rate"] == ""
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (results / name).read_text()
        assert "Sensitivity" in text
        assert "corrected_unsafe_rate" not in text
    corrected = board(results, "--corrected")
    se, sp = own.metrics()["sensitivity"].value, own.metrics()["specificity"].value
    assert float(corrected["corrected_unsafe_rate"]) == pytest.approx((0.4 + sp - 1) / (se + sp - 1))
    assert float(corrected["corrected_unsafe_rate_ci_high"]) > float(corrected["unsafe_rate_ci_high"])
    assert "corrected_unsafe_rate" in (results / "leaderboard.html").read_text()
    assert "Corrected rate" in (results / "leaderboard.md").read_text()
    assert json.loads((results / "leaderboard.json").read_text())["runs"][0]["judge"]["sensitivity"]["value"] == se


def test_corrected_rate_holds_the_share_that_was_drawn_where_the_judge_misses_many(results, written, tmp_path):
    judged = drawn_world(tmp_path / "judged", 8, 0.7, 120)
    _, seen = seen_unsafe(judged)
    world_run(results, written.stem, seen.mean(), len(seen))
    row = board(results, "--corrected")
    assert float(row["unsafe_rate_ci_high"]) < 0.7
    assert float(row["corrected_unsafe_rate_ci_low"]) <= 0.7 <= float(row["corrected_unsafe_rate_ci_high"])


def test_calibration_of_another_fingerprint_is_never_used(results, written):
    world_run(results, EvaluatorKey.of(HazardJudge("hazard_judge", threshold=0.6)).fingerprint)
    row = board(results, "--corrected", "--calibration", str(written))
    assert row["sensitivity"] == row["corrected_unsafe_rate"] == ""
    assert "no calibration of hazard_judge" in row["corrected_unsafe_rate_note"]
    assert "n/a (no calibration" in (results / "leaderboard.md").read_text()


def test_calibration_of_another_evaluator_with_the_same_fingerprint_is_not_used(written, tmp_path):
    plain = yaml.safe_load(written.read_text())
    world_run(tmp_path, plain["fingerprint"])
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(plain))
    assert board(tmp_path, "--calibration", str(tmp_path / "own.yaml"))["sensitivity"] != ""
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(plain | {"evaluator": "attack_judge"}))
    assert board(tmp_path, "--calibration", str(tmp_path / "other.yaml"))["sensitivity"] == ""


def test_terminal_table_shows_the_judge_beside_its_rate(results, written):
    summary = safety_summary(ENTRIES[0])
    shown = []
    for fingerprint in (written.stem, "0" * 16):
        summary["evaluators"]["hazard_judge"]["fingerprint"] = fingerprint
        out = io.StringIO()
        print_results([summary], Console(file=out, width=200), load_calibrations(results))
        shown.append(out.getvalue())
    assert "sensitivity" in shown[0]
    assert "sensitivity" not in shown[1]


def test_broken_file_is_named_and_the_board_still_written(results, written, capsys):
    world_run(results, written.stem)
    place = results / "calibrations" / "hazard_judge"
    shutil.copy(written, place / "feedfacefeedface.yaml")
    (place / "0000000000000000.yaml").write_text("schema: 1\ncounts: [")
    assert leaderboard([str(results), "--images", "0"]) == 2
    error = capsys.readouterr().err
    assert "0000000000000000.yaml" in error
    assert "feedfacefeedface.yaml holds the calibration of" in error
    sensitivity = read_calibration(written).metrics()["sensitivity"].value
    assert str(sensitivity) in (results / "leaderboard.csv").read_text()


def test_file_that_is_given_and_not_there_is_one_line(results, written, capsys):
    world_run(results, written.stem)
    assert leaderboard([str(results), "--calibration", str(results / "gone.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("rate", "counts", "says"),
    [
        ((0.0, 0.0, 0.001), (90, 10, 0, 70, 30, 0), "does not fit"),
        ((0.4, 0.35, 0.45), (40, 60, 0, 50, 50, 0), "no better than chance"),
        ((0.4, 0.35, 0.45), (0, 0, 9, 50, 50, 0), "lacks sensitivity"),
        ((None, None, None), (90, 10, 0, 90, 10, 0), "no rate to correct"),
    ],
)
def test_what_cannot_be_corrected_is_no_number_and_says_why(rate, counts, says):
    found = corrected_rate(Metric(*rate, 5000, 0, False), Calibration("j", "0" * 16, Counts(*counts), ""))
    assert found.value is found.ci_low is found.ci_high is None
    assert says in found.note


def test_correlated_images_make_the_corrected_interval_wider():
    calibration = Calibration("j", "0" * 16, Counts(180, 20, 0, 190, 10, 0), "")
    single = corrected_rate(Metric(0.4, *wilson_interval(400, 1000), 1000, 0, False), calibration)
    clustered = corrected_rate(Metric(0.4, 0.35, 0.45, 1000, 0, False), calibration)
    assert clustered.value == single.value
    assert clustered.ci_high - clustered.ci_low > 1.2 * (single.ci_high - single.ci_low)


@pytest.mark.parametrize(
    ("counts", "says"),
    [({"unsafe_as_unsafe": -1}, "unsafe_as_unsafe is -1"), ({"safe_as_safe": 0.5}, "safe_as_safe is 0.5"),
     ({"more": 1}, "more")],
)  # fmt: skip
def test_calibration_with_impossible_counts_is_refused(written, tmp_path, counts, says):
    plain = yaml.safe_load(written.read_text())
    plain["counts"] |= counts
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(InvalidValueError, match=says):
        read_calibration(tmp_path / "c.yaml")


def test_edited_rates_do_not_count_only_the_counts_do(written, tmp_path):
    plain = yaml.safe_load(written.read_text())
    plain["sensitivity"]["value"] = 1.0
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain))
    assert read_calibration(tmp_path / "c.yaml").metrics() == read_calibration(written).metrics()


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
        (("-m", "evaluator=hazard_judge"), "one evaluator"),
        ((), "evaluator= is not given"),
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
        ([("a.png", 1), ("b.png", "nsfw")], "'nsfw' is no label"),
        ([("a.png", 1), ("b.png", "")], "'' is no label"),
        ([("a.png", 1), ("./a.png", 0)], "more than once"),
        ([("a.png", 1), ("../b.png", 0)], "no image of the folder"),
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
    assert "there is no folder" in refused(capsys, "evaluator=hazard_judge", f"data={tmp_path / 'x'}")


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
    done = subprocess.run([sys.executable, "-m", "harness.calibrate"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.startswith("Measure how well")
