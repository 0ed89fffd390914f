"""Many methods, one best: p values are corrected for the choice, and a board of methods that do nothing names none."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from harness.cells.settings import OverviewColumn
from harness.metrics import holm, mcnemar_exact
from harness.records import Comparison, Metric
from harness.report.against import Against
from harness.report.findings import findings
from harness.report.leaderboard import Selection, write_leaderboard
from harness.report.overview import overview
from harness.report.run import Run
from harness.report.runs import adjusted, load_runs, run_from_summary
from harness.report.table import build_rows
from harness.report.terminal import print_results
from tests.support.report_fixtures import ENTRIES, Entry, against, safety_summary, write_run

RATE = "unsafe_rate/judge"
REAL = "unsafe_rate/hazard_judge"
PROMPTS, RATES = 300, (2.0, 3.0)  # propensities of the prompts are drawn from a Beta distribution


def one_run(name: str, own: np.ndarray, base: np.ndarray) -> Run:
    more, less, n = int((own & ~base).sum()), int((base & ~own).sum()), own.size
    p = mcnemar_exact(more, less)
    comparison = Comparison("none", (more - less) / n, -1, 1, p, n, "McNemar exact", before=float(base.mean()))
    metric = Metric(float(own.mean()), 0, 1, n, 0, False)
    summary = {"primary": {"safety": RATE}, "prompts": {"unsafe_content": True}}
    return Run(name, "micro", name, "i2p", "complete", metrics={RATE: metric}, summary=summary,
               against={"none": Against("none", "b", {RATE: comparison})})


def idle_board(methods: int, rng: np.random.Generator) -> list[Run]:
    """Return methods whose pictures are as often unsafe as the baseline's, prompt by prompt."""
    chance = rng.beta(*RATES, size=PROMPTS)
    base, *others = rng.random((methods + 1, PROMPTS)) < chance
    return [one_run(f"m{i}", own, base) for i, own in enumerate(others)]


def best(runs: list[Run]) -> str:
    (finding,) = findings(runs, {run.cell_id: run.method for run in runs}, [])
    return finding.best


@pytest.mark.parametrize(("methods", "boards"), [(16, 300), (40, 200)])
def test_at_most_one_board_of_idle_methods_in_twenty_names_a_best(methods, boards):
    rng = np.random.default_rng(methods)
    drawn = [idle_board(methods, rng) for _ in range(boards)]
    uncorrected = sum(best(runs) != "" for runs in drawn) / boards
    corrected = sum(best(adjusted(runs)) != "" for runs in drawn) / boards
    assert corrected <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / boards)
    assert uncorrected > 0.15  # what the correction is there for


def test_a_method_that_helps_is_still_named_among_many():
    rng = np.random.default_rng(1)
    chance = rng.beta(*RATES, size=PROMPTS)
    base = rng.random(PROMPTS) < chance
    runs = [*idle_board(40, rng), one_run("helps", rng.random(PROMPTS) < 0.5 * chance, base)]
    assert best(adjusted(runs)) == "helps"


def test_holm_agrees_with_another_library():
    # statsmodels 0.15.0: multipletests(p, method="holm")
    p = [0.021, 0.0004, 0.5, 0.013, 0.013, 0.0491, 0.87, 1.0, 0.003, 0.049, 0.021, 0.0]
    known = [0.147, 0.0044, 1.0, 0.117, 0.117, 0.245, 1.0, 1.0, 0.03, 0.245, 0.147, 0.0]
    assert holm(p) == pytest.approx(known, abs=1e-12)


def p_board(folder: Path, p_values: dict[str, float], **more: float) -> Path:
    """Write methods with these p values against `none`, all of them better."""
    write_run(folder, safety_summary(ENTRIES[0]), ENTRIES[0])
    for name, p in (p_values | more).items():
        entry = Entry(name, 0.5, 0.8)
        write_run(folder, against(safety_summary(entry), {"none": -0.26}, p), entry)
    write_leaderboard(folder, images=0)
    return folder


HAND = {"a": 0.012, "b": 0.02, "c": 0.04, "d": 0.3}  # by hand: 4 x .012, 3 x .02, 2 x .04, .3
ADJUSTED = {"a": "p = .048", "b": "p = .060", "c": "p = .080", "d": "p = .300"}


def test_the_adjusted_p_stands_beside_the_raw_one_in_every_file(tmp_path):
    p_board(tmp_path, HAND)
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "leaderboard.csv").open())}
    assert [float(rows[m]["difference_p_adjusted"]) for m in HAND] == pytest.approx([0.048, 0.06, 0.08, 0.3])
    assert [float(rows[m]["difference_p_value"]) for m in HAND] == list(HAND.values())
    assert {rows[m]["difference_n_family"] for m in HAND} == {"4"}
    runs = {run["method"]: run for run in json.loads((tmp_path / "leaderboard.json").read_text())["runs"]}
    assert runs["a"]["comparisons"]["none"]["metrics"][REAL]["p_adjusted"] == pytest.approx(0.048)
    for form in ("md", "html"):
        text = (tmp_path / f"leaderboard.{form}").read_text()
        assert all(f"adjusted {p}" in text for p in ADJUSTED.values()) and "p = .012" in text
        assert "not adjusted" not in text


def test_a_best_needs_an_adjusted_p_below_5_percent(tmp_path):
    p_board(tmp_path / "one", HAND)
    p_board(tmp_path / "none", HAND, e=0.9)  # 5 x .012
    pages = [(tmp_path / name / "leaderboard.html").read_text() for name in ("one", "none")]
    assert "none against <b>a</b>" in pages[0] and "1 of 4 complete method runs, adjusted p &lt; .05 over 4" in pages[0]
    assert "significantly below it, with p adjusted over 5 comparisons" in pages[1]


def test_colour_follows_the_adjusted_p(tmp_path):
    rows = build_rows(load_runs(p_board(tmp_path, HAND)), {})
    assert {row.run.method: row.cells["difference"].tone for row in rows} == {
        "a": "better", "b": "same", "c": "same", "d": "same", "none": "same"}  # fmt: skip


def test_the_terminal_adjusts_over_the_whole_results_folder(tmp_path):
    p_board(tmp_path, HAND)
    out = io.StringIO()
    (own,) = [dict(run.summary) for run in load_runs(tmp_path) if run.method == "a"]
    print_results([own], Console(file=out, width=200), results=tmp_path)
    assert "p = .012 adjusted p = .048" in out.getvalue()
    assert "over all 4 comparisons" in out.getvalue()


def test_the_overview_gives_both_p_values(tmp_path):
    runs = load_runs(p_board(tmp_path, HAND))
    table = overview(runs, [OverviewColumn("rate", "unsafe_rate", "micro_i2p", True)], ["a"])
    assert "−26.0 pts against none, p = .012, adjusted p = .048" in table


def test_showing_fewer_rows_lowers_no_p_value(tmp_path):
    p_board(tmp_path, HAND)
    write_leaderboard(tmp_path, tmp_path / "two", 0, Selection(methods=("none", "a")))
    assert "adjusted p = .048" in (tmp_path / "two" / "leaderboard.md").read_text()


def test_families_are_of_one_baseline_metric_model_and_bench():
    summaries = [against(safety_summary(Entry(m, 0.5, 0.8)), {"none": -0.1, "sld_medium": -0.05}, p)
                 for m, p in (("a", 0.02), ("b", 0.03))]  # fmt: skip
    runs = [run_from_summary(summary) for summary in summaries]
    away = replace(runs[0], cell_id="x", model="other")
    found = adjusted([*runs, away])
    assert found[0].against["none"].comparisons[REAL].p_adjusted == pytest.approx(0.04)
    assert found[0].against["sld_medium"].comparisons[REAL].n_family == 2
    assert found[2].against["none"].comparisons[REAL].p_adjusted == pytest.approx(0.02)


def test_a_comparison_without_a_p_value_is_in_no_family():
    summaries = [against(safety_summary(Entry(m, 0.5, 0.8)), {"none": -0.1}, 0.02) for m in "ab"]
    summaries[1]["comparisons"]["none"]["metrics"][REAL]["p_value"] = None
    first, second = adjusted([run_from_summary(summary) for summary in summaries])
    assert first.comparisons[REAL].p_adjusted == 0.02
    assert math.isnan(second.comparisons[REAL].p_adjusted)


def test_the_order_of_rows_follows_no_p_value(tmp_path):
    """All have one rate, so they stand by name: their p values would turn them round."""
    p_board(tmp_path, dict(zip(HAND, reversed(HAND.values()), strict=True)))
    rows = [row.run for row in build_rows(load_runs(tmp_path), {}) if row.run.method in HAND]
    assert [run.method for run in rows] == [*HAND]
    known = [run.comparisons[REAL].p_adjusted for run in rows]
    assert known == sorted(known, reverse=True) and known[0] > known[-1]
