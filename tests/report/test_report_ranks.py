"""The board's rank: among which rows, by what, and what it does not depend on."""

from __future__ import annotations

import copy
import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from harness.cells.judgements import FILE
from harness.cells.tables import StoredJudgement, encode_judgements
from harness.metrics.aggregate import Sample, rate_metric
from harness.records import ScoreRow, Verdict
from harness.report.leaderboard import Selection, write_leaderboard
from harness.report.ranks import ranked
from harness.report.runs import load_runs
from tests.report.test_report_comparable import changed, made
from tests.support.report_fixtures import JUDGE, Entry, write_run

RATE = "unsafe_rate/hazard_judge"
N = 200
ENTRIES = {"none": 0.6, "close": 0.58, "good": 0.3, "best": 0.05}


def write(results, method, rate, change=None, unknown=0):
    """Write a run whose verdicts give its rate."""
    verdicts = np.random.default_rng(0).random(N) < rate  # the same prompts are the hard ones for all
    summary = copy.deepcopy(made(Entry(method, rate, 0.8, unknown=unknown)))
    if change:
        summary = changed(summary, *change)
    known = verdicts[: N - unknown].astype(float).tolist()
    summary["metrics"][RATE] = asdict(rate_metric(Sample(known, list(range(len(known))), unknown), False, 0))
    folder = write_run(results, summary, Entry(method, rate, 0.8))
    rows = [StoredJudgement("hazard_judge", JUDGE.fingerprint,
                            ScoreRow(f"p{i}", 0, Verdict.UNSAFE if one else Verdict.SAFE), float(one), f"{i:064x}")
            for i, one in enumerate(known)]  # fmt: skip
    (folder / FILE).write_bytes(encode_judgements(rows))
    return folder


@pytest.fixture
def results(tmp_path):
    for method, rate in ENTRIES.items():
        write(tmp_path, method, rate)
    return tmp_path


def by_method(results):
    runs = load_runs(results)
    found = ranked(runs)
    return {run.method: found.get(run.cell_id) for run in runs}


def test_rows_are_ranked_by_the_safety_metric_and_what_is_close_shares_places(results):
    found = by_method(results)
    assert {name: (one.rank, one.low, one.high, one.n) for name, one in found.items()} == {
        "best": (1, 1, 1, 4), "good": (2, 2, 2, 4), "close": (3, 3, 4, 4), "none": (4, 3, 4, 4)}  # fmt: skip
    assert {one.by for one in found.values()} == {RATE}


def test_every_file_says_the_rank_its_interval_and_among_how_many(results):
    write_leaderboard(results, images=0)
    rows = {row["method"]: row for row in csv.DictReader((results / "leaderboard.csv").open())}
    keys = ("rank", "rank_ci_low", "rank_ci_high", "rank_of", "rank_by")
    assert [rows["close"][key] for key in keys] == ["3", "3", "4", "4", RATE]
    told = {one["method"]: one for one in json.loads((results / "leaderboard.json").read_text())["runs"]}
    assert [told["best"][key] for key in keys] == [1, 1, 1, 4, RATE]
    for name in ("md", "html"):
        text = (results / f"leaderboard.{name}").read_text()
        assert "[3\N{EN DASH}4] of 4" in text.replace("\\", "") and "unsafe rate by hazard" in text.replace("\\", "")


def test_showing_fewer_rows_moves_no_rank(results, tmp_path):
    write_leaderboard(results, tmp_path / "few", 0, Selection(methods=("none", "good")))
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "few" / "leaderboard.csv").open())}
    assert (rows["good"]["rank"], rows["good"]["rank_of"]) == ("2", "4")


def test_rows_made_otherwise_are_ranked_apart(results):
    write(results, "other", 0.01, ("cell.settings.num_inference_steps", 50))
    write(results, "another", 0.02, ("cell.settings.num_inference_steps", 50))
    found = by_method(results)
    assert (found["best"].rank, found["best"].n) == (1, 4)
    assert (found["other"].rank, found["other"].n) == (1, 2)


def test_an_incomplete_row_has_no_rank_and_takes_none_from_others(results):
    write(results, "shaky", 0.01, unknown=20)
    found = by_method(results)
    assert found["shaky"] is None and (found["best"].rank, found["best"].n) == (1, 4)


def test_a_row_alone_has_no_rank(tmp_path):
    write(tmp_path, "none", 0.6)
    assert by_method(tmp_path) == {"none": None}


def test_verdicts_that_do_not_give_the_rate_again_rank_nothing(results):
    folder = next(results.glob("runs/*/best/*/*"))
    (folder / FILE).write_bytes((next(results.glob("runs/*/good/*/*")) / FILE).read_bytes())
    found = by_method(results)
    assert found["best"] is None and found["good"].n == 3


def test_a_rank_reads_as_rank_interval_and_number(results):
    found = by_method(results)["close"]
    assert found.text == "3 [3\N{EN DASH}4] of 4" and replace(found, high=3).text == "3 [3] of 4"
