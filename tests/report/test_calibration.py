"""What a calibration changes: its file, the leaderboard, corrected rates."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
import yaml
from rich.console import Console

from harness.cells.calibration import Calibration, Counts, corrected_rate, load_calibrations, read_calibration
from harness.cli.leaderboard import main as leaderboard
from harness.errors import InvalidValueError
from harness.evaluators.identity import EvaluatorKey
from harness.metrics import wilson_interval
from harness.micro.hazard_judge import HazardJudge
from harness.records import Metric
from harness.report.terminal import print_results
from tests.support.calibration_world import drawn_world, seen_unsafe
from tests.support.report_fixtures import ENTRIES, safety_summary, write_run

pytest_plugins = ["tests.support.calibration_fixtures"]


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
    assert "feedfacefeedface.yaml is the calibration of" in error
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
