"""What a comparison is against: the baseline that was really used, by name, everywhere; several side by side."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from harness.cells.comparable import by_baseline
from harness.cells.settings import OverviewColumn
from harness.report.findings import findings
from harness.report.leaderboard import write_leaderboard
from harness.report.overview import overview
from harness.report.runs import BrokenSummaryError, load_runs, run_from_summary
from harness.report.table import build_rows, row_cell, shown_columns
from harness.report.terminal import print_results
from harness.report.tracking_fields import field, summary_fields
from harness.report.tradeoff import plots
from harness.report.variants import row_labels, variants
from tests.support.report_fixtures import ENTRIES, Entry, against, compare, safety_summary, write_run

RATE = "unsafe_rate/hazard_judge"
MEDIUM, MAX = ENTRIES[2], ENTRIES[3]


def board(folder: Path, *summaries: dict) -> Path:
    for summary in summaries:
        write_run(folder, summary, Entry(summary["cell"]["method"], 0.5, 0.8))
    write_leaderboard(folder, images=0)
    return folder


def medium_board(folder: Path) -> Path:
    """Write `sld_max` and `negative_prompt`, compared with `sld_medium` and with nothing else."""
    compared = [against(safety_summary(entry), {"sld_medium": entry.unsafe - MEDIUM.unsafe})
                for entry in (ENTRIES[1], MAX)]  # fmt: skip
    return board(folder, safety_summary(ENTRIES[0]), against(safety_summary(MEDIUM), {}), *compared)


def told(folder: Path):
    runs = [run for run in load_runs(folder) if run.readable]
    named = variants(runs)
    return findings(runs, row_labels(runs, named), plots(runs, named))


@pytest.mark.parametrize("form", ["md", "html"])
def test_the_column_and_the_headline_name_the_baseline_that_was_used(tmp_path, form):
    text = (medium_board(tmp_path) / f"leaderboard.{form}").read_text()
    assert "Against sld" in text
    assert "gainst none" not in text and "Better than none" not in text
    if form == "html":
        assert "sld_medium against <b>sld_max</b>" in text and "Better than sld_medium" in text
        assert "dotted lines mark sld_medium" in text
        assert "<dt>Baseline</dt><dd><b>sld_medium</b>" in text


def test_files_of_numbers_name_the_baseline(tmp_path):
    medium_board(tmp_path)
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "leaderboard.csv").open())}
    assert rows["sld_max"]["difference_baseline"] == "sld_medium"
    assert float(rows["sld_max"]["difference"]) == pytest.approx(MAX.unsafe - MEDIUM.unsafe)
    runs = json.loads((tmp_path / "leaderboard.json").read_text())["runs"]
    (own,) = [run for run in runs if run["method"] == "sld_max"]
    assert list(own["comparisons"]) == ["sld_medium"]
    assert own["comparisons"]["sld_medium"]["metrics"][RATE]["difference"] == pytest.approx(MAX.unsafe - MEDIUM.unsafe)


def test_the_headline_is_of_the_baseline_that_was_used(tmp_path):
    (finding,) = told(medium_board(tmp_path))
    assert (finding.baseline, finding.best, finding.before, finding.after) == (
        "sld_medium", "sld_max", "71.0 %", "34.0 %")  # fmt: skip


def test_only_the_baseline_itself_is_called_baseline(tmp_path):
    rows = list(csv.reader(io.StringIO((medium_board(tmp_path) / "leaderboard.md").read_text()), delimiter="|"))
    marked = [row[1].strip() for row in rows if len(row) > 2 and "baseline" in [cell.strip() for cell in row]]
    assert marked == ["sld\\_medium"]


def test_a_baseline_that_is_called_otherwise_is_known_by_its_cell(tmp_path):
    base = against(safety_summary(MEDIUM), {})
    base["cell"]["settings"]["method_overrides"] = {"scale": 1000}  # the default, given by hand
    own = against(safety_summary(MAX), {"sld_medium": -0.37})
    own["comparisons"]["sld_medium"]["cell"] = own["cell"]["baseline_cell"] = base["cell"]["id"]
    rows = build_rows([run_from_summary(base), run_from_summary(own)], {})
    (column,) = [column for column in shown_columns(rows) if column.kind == "difference"]
    assert {row.run.method: row_cell(row, column).text for row in rows} == {"sld_medium": "baseline",
                                                                            "sld_max": "−37.0 pts"}  # fmt: skip


def test_the_terminal_and_the_overview_name_the_baseline(tmp_path):
    out = io.StringIO()
    summary = against(safety_summary(MAX), {"sld_medium": -0.37})
    print_results([summary], Console(file=out, width=200))
    assert "against sld_medium" in out.getvalue() and "against none" not in out.getvalue()
    column = OverviewColumn("rate", "unsafe_rate", "micro_i2p", True)
    table = overview([run_from_summary(summary)], [column], ["sld_max"])
    assert "−37.0 pts against sld_medium" in table


def test_wandb_gets_each_difference_under_its_baseline():
    values = summary_fields(against(safety_summary(MAX), {"none": -0.42, "sld_medium": -0.37}))
    assert values[field("against", "none", RATE)] == -0.42
    assert values[field("against", "sld_medium", RATE)] == -0.37


def test_two_baselines_have_a_column_each(tmp_path):
    summary = against(safety_summary(MAX), {"none": -0.42, "sld_medium": -0.37})
    board(tmp_path, safety_summary(ENTRIES[0]), against(safety_summary(MEDIUM), {"none": -0.05}), summary)
    for form in ("md", "html"):
        text = (tmp_path / f"leaderboard.{form}").read_text().replace("\\_", "_")
        assert all(word in text for word in ("Against none", "Against sld_medium", "−42.0 pts", "−37.0 pts"))
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "leaderboard.csv").open())}
    assert (rows["sld_max"]["against none"], rows["sld_max"]["against sld_medium"]) == ("-0.42", "-0.37")
    assert rows["sld_medium"]["against sld_medium"] == ""
    assert {finding.baseline for finding in told(tmp_path)} == {"none", "sld_medium"}


def test_settings_of_a_baseline_are_part_of_its_name(tmp_path):
    weak = safety_summary(Entry("safedir", 0.7, 0.8, {"strength": 0.5}))
    weak["cell"]["settings"]["method_overrides"] = {"strength": 0.5}
    named = against(safety_summary(MAX), {"safedir (strength=0.5)": -0.36})
    text = (board(tmp_path, against(weak, {}), named) / "leaderboard.html").read_text()
    assert "Against safedir (strength=0.5)" in text
    assert run_from_summary(weak).name == "safedir (strength=0.5)"


def test_a_summary_of_a_former_version_is_read_with_its_baseline():
    summary = safety_summary(MAX)  # comparisons by metric, each naming its baseline
    assert summary["comparisons"][RATE]["baseline"] == "none"
    run = run_from_summary(summary)
    assert list(run.against) == ["none"] and run.against["none"].cell_id == "b" * 12
    assert run.comparisons[RATE].difference == pytest.approx(-0.42)


def test_before_is_the_baselines_value_of_the_paired_images_not_that_of_its_row(tmp_path):
    summary = against(safety_summary(MAX), {"none": -0.42})
    summary["comparisons"]["none"]["metrics"][RATE] |= {"before": 0.5, "n_pairs": 200}
    (finding,) = told(board(tmp_path, safety_summary(ENTRIES[0]), summary))
    assert (finding.before, finding.after, finding.n_pairs) == ("50.0 %", "8.0 %", 200)
    page = (tmp_path / "leaderboard.html").read_text()
    assert '<span class="before">50.0 %</span>' in page and "on 200 paired images" in page


def test_the_latest_baseline_is_the_one_shown_where_there_is_room_for_one():
    summary = against(safety_summary(MAX), {"none": -0.42, "sld_medium": -0.37})
    summary["cell"]["baseline_cell"] = summary["comparisons"]["sld_medium"]["cell"]
    run = run_from_summary(summary)
    assert run.baseline.label == "sld_medium"
    assert run.comparisons[RATE].difference == -0.37


def test_distances_to_a_baseline_name_it():
    summary = against(safety_summary(MAX), {"sld_medium": -0.37})
    summary["metrics"]["lpips"] = asdict(compare(0.1, 0.05, 10, "")) | {"value": 0.4, "n": 10, "n_unknown": 0,
                                                                      "higher_is_better": False}  # fmt: skip
    columns = shown_columns(build_rows([run_from_summary(summary)], {}))
    assert "LPIPS (to sld_medium)" in [column.heading for column in columns]


@pytest.mark.parametrize("damaged", [[1], {"none": 3}, {"none": {"metrics": [1]}}, {"none": {"metrics": {RATE: 1}}},
                                     {"none": {"metrics": {}, "distances": "x"}}])  # fmt: skip
def test_damaged_comparisons_make_a_summary_broken_and_stop_no_later_run(damaged):
    summary = safety_summary(MAX) | {"comparisons": damaged}
    with pytest.raises(BrokenSummaryError):
        run_from_summary(summary)
    assert isinstance(by_baseline(summary), dict)
