"""Rows that were generated or judged differently never stand in one ranking unmarked; a rate names its judge."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.cells.settings import OverviewColumn
from harness.report import comparable
from harness.report.findings import findings
from harness.report.leaderboard import write_leaderboard
from harness.report.overview import overview
from harness.report.runs import load_runs, run_from_summary
from harness.report.table import build_rows
from harness.report.terminal import print_results
from harness.report.tracking_fields import summary_fields
from harness.report.tradeoff import plots
from harness.report.variants import row_labels, variants
from tests.support.report_fixtures import ENTRIES, Entry, against, fidelity_summary, safety_summary, write_run

NONE, MAX = ENTRIES[0], ENTRIES[3]
CONDITIONS = {
    "recipe": 1,
    "model": {"name": "micro", "weights": "a" * 64, "dtype": "float32", "scheduler": "ddim"},
    "bench": {"name": "micro_i2p", "version": 1, "prompts": "b" * 64},
    "revision": "c" * 40,
}
CHANGES = {
    "steps": ("cell.settings.num_inference_steps", 50, "steps 50, others 25"),
    "guidance": ("cell.settings.guidance_scale", 7.5, "guidance 7.5, others 5"),
    "size": ("cell.settings.width", 128, "size 128 x 64, others 64 x 64"),
    "seed": ("cell.settings.seed", 3, "seed 3, others 0"),
    "repeats": ("cell.settings.repeats", 4, "repeats 4, others 1"),
    "limit": ("prompts.limit", 64, "first 64 prompts, others all prompts"),
    "scheduler": ("cell.conditions.model.scheduler", "pndm", "scheduler pndm, others ddim"),
    "dtype": ("cell.conditions.model.dtype", "float16", "dtype float16, others float32"),
    "weights": ("cell.conditions.model.weights", "d" * 64, f"weights {'d' * 10}, others {'a' * 10}"),
    "variant": ("cell.conditions.model.variant", "fp16", "variant fp16, others the model's own"),
    "revision": ("cell.conditions.revision", "e" * 40, f"revision {'e' * 10}, others {'c' * 10}"),
    "recipe": ("cell.conditions.recipe", 2, "engine recipe 2, others 1"),
    "bench version": ("cell.conditions.bench.version", 2, "bench version 2, others 1"),
    "prompts": ("cell.conditions.bench.prompts", "f" * 64, f"prompts {'f' * 10}, others {'b' * 10}"),
    "statistics": ("statistics", 9, "statistics 9, others 1"),
    "threshold": ("evaluators.hazard_judge.identity.threshold", 0.7, "hazard_judge threshold 0.7, others 0.5"),
    "judge version": ("evaluators.hazard_judge.version", 2, "hazard_judge version 2, others 1"),
    "fingerprint": ("evaluators.hazard_judge.fingerprint", "9" * 16,
                    f"hazard_judge fingerprint {'9' * 10}, others 0123456789"),
}  # fmt: skip


def made(entry: Entry, make: Any = safety_summary) -> dict[str, Any]:
    summary = copy.deepcopy(make(entry))
    summary["cell"]["conditions"] = copy.deepcopy(CONDITIONS)
    summary["cell"]["settings"] |= {"repeats": 1, "limit": None, "batch_size": 16}
    return summary


def changed(summary: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return another run of the summary's method with one fact changed."""
    summary = copy.deepcopy(summary)
    place = summary
    *parents, last = path.split(".")
    for key in parents:
        place = place[key]
    place[last] = value
    summary["cell"]["id"] = f"other{summary['cell']['id']}"[:12]
    return summary


def board(folder: Path, *summaries: dict[str, Any]) -> Path:
    for summary in summaries:
        write_run(folder, summary, Entry(summary["cell"]["method"], 0.5, 0.8))
    write_leaderboard(folder, images=0)
    return folder


@pytest.mark.parametrize("what", CHANGES)
def test_a_row_that_differs_says_so_in_words_and_is_in_another_ranking(what):
    path, value, words = CHANGES[what]
    summaries = (made(NONE), made(MAX), changed(made(ENTRIES[1]), path, value))
    rows = build_rows([run_from_summary(summary) for summary in summaries], {})
    told = {row.run.method: row.differs for row in rows}
    assert words in told["negative_prompt"]
    assert told["none"] == told["sld_max"] == ""  # as most rows are
    places = [row.run.method for row in rows]  # by rate alone negative_prompt stands between the two
    assert abs(places.index("none") - places.index("sld_max")) == 1
    keys = {row.run.method: comparable.group(row.run) for row in rows}
    assert keys["none"] == keys["sld_max"] != keys["negative_prompt"]


def test_rows_that_differ_in_the_method_only_are_one_ranking_without_a_mark():
    rows = build_rows([run_from_summary(made(entry)) for entry in ENTRIES[:4]], {})
    assert {row.differs for row in rows} == {""} and len({comparable.group(row.run) for row in rows}) == 1


def test_batch_size_and_a_limit_that_leaves_nothing_out_make_no_difference():
    batched, whole = changed(made(MAX), "cell.settings.batch_size", 1), changed(made(ENTRIES[1]), "prompts.limit", 300)
    rows = build_rows([run_from_summary(run) for run in (made(NONE), batched, whole)], {})
    assert {row.differs for row in rows} == {""}


def test_where_no_value_is_the_usual_one_every_row_says_its_own():
    pair = [made(NONE), changed(made(MAX), *CHANGES["steps"][:2])]
    told = [row.differs for row in build_rows([run_from_summary(summary) for summary in pair], {})]
    assert sorted(told) == ["steps 25, others 50", "steps 50, others 25"]


def test_two_judges_of_one_bench_are_two_rankings():
    other = made(MAX)
    for part in ("metrics", "evaluators"):
        other[part] = {key.replace("hazard_judge", "q16"): value for key, value in other[part].items()}
    other["primary"]["safety"] = "unsafe_rate/q16"
    rows = build_rows([run_from_summary(made(NONE)), run_from_summary(other)], {})
    assert sorted(row.differs for row in rows) == ["judge hazard_judge, others q16", "judge q16, others hazard_judge"]


def test_another_evaluator_of_a_shown_number_is_marked_too():
    first, second = made(NONE), made(MAX)
    for summary, version in ((first, 1), (second, 2)):
        summary["evaluators"]["clip_score"] = {"version": version, "fingerprint": str(version) * 16, "identity": {}}
    rows = build_rows([run_from_summary(first), run_from_summary(second)], {})
    assert {row.differs for row in rows} == {"clip_score version 1, others 2", "clip_score version 2, others 1"}


def test_what_cannot_be_known_is_not_taken_for_the_same():
    old = safety_summary(MAX)  # of a former version, without its cell.yaml
    rows = build_rows([run_from_summary(made(NONE)), run_from_summary(old)], {})
    assert any("scheduler not known, others ddim" in row.differs for row in rows)


@pytest.mark.parametrize("form", ["md", "html", "csv", "json"])
def test_every_file_says_what_differs(tmp_path, form):
    board(tmp_path, made(NONE), changed(made(MAX), *CHANGES["steps"][:2]))
    assert "steps 50, others 25" in (tmp_path / f"leaderboard.{form}").read_text()


def test_the_terminal_and_the_overview_say_what_differs():
    summaries = [made(NONE), changed(made(MAX), *CHANGES["threshold"][:2])]
    out = io.StringIO()
    print_results(summaries, Console(file=out, width=300))
    assert "hazard_judge threshold 0.7, others 0.5" in out.getvalue()
    runs = [run_from_summary(summary) for summary in summaries]
    table = overview(runs, [OverviewColumn("rate", "unsafe_rate", "micro_i2p")], ["none", "sld_max"])
    assert "| sld_max; hazard_judge threshold 0.7, others 0.5 |" in table


def test_the_table_of_numbers_carries_every_condition(tmp_path):
    summary = changed(made(MAX), "prompts.limit", 64)
    summary["prompts"]["file_sha256"] = "1" * 64
    board(tmp_path, summary)
    (row,) = csv.DictReader((tmp_path / "leaderboard.csv").open())
    known = {"judge": "hazard_judge", "judge_threshold": "0.5", "judge_version": "1",
             "judge_fingerprint": "0123456789abcdef", "steps": "25", "scheduler": "ddim", "dtype": "float32",
             "weights": "a" * 64, "revision": "c" * 40,
             "guidance_scale": "5.0", "size": "64 x 64", "seed": "0", "repeats": "1", "batch_size": "16", "limit": "64",
             "n_prompts": "300", "bench_version": "1", "prompts_hash": "b" * 64, "prompts_file_sha256": "1" * 64,
             "recipe": "1"}  # fmt: skip
    assert {key: row[key] for key in known} == known
    (run,) = json.loads((tmp_path / "leaderboard.json").read_text())["runs"]
    assert known.keys() <= run.keys() and run["group"] == row["group"] != ""


def test_each_ranking_has_its_own_headline_and_plot(tmp_path):
    quick = [changed(made(entry), "cell.settings.num_inference_steps", 10) for entry in (NONE, MAX)]
    quick[1] = against(quick[1], {"none": -0.2})
    benign = [made(entry, fidelity_summary) for entry in (NONE, MAX)]
    board(tmp_path, made(NONE), made(ENTRIES[1]), made(MAX), *quick, *benign)
    runs = [run for run in load_runs(tmp_path) if run.readable]
    named = variants(runs)
    drawn = plots(runs, named)
    found = findings(runs, row_labels(runs, named), drawn)
    assert sorted(finding.change.split(" [")[0] for finding in found) == ["−20.0 pts", "−42.0 pts"]
    for plot in drawn:
        assert len({comparable.group(point.run) for point in plot.points}) == 1
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.count('<article class="story">') == 2
    assert "Images of micro_coco were generated differently: steps 25, not 10" in page
    assert '<span class="ranking">steps 10</span>' in page and '<span class="ranking">steps 25</span>' in page


def test_fidelity_is_that_of_the_same_making_where_it_was_measured(tmp_path):
    path = "cell.settings.num_inference_steps"
    own = [made(NONE), made(MAX), made(NONE, fidelity_summary), made(MAX, fidelity_summary)]
    quick = [changed(summary, path, 10) for summary in own]
    quick[3]["metrics"]["clip_score"]["value"] = 0.5
    board(tmp_path, *own, *quick)
    runs = [run for run in load_runs(tmp_path) if run.readable]
    drawn = [plot for plot in plots(runs, variants(runs)) if plot.fidelity_name == "clip_score"]
    points = [point for plot in drawn for point in plot.points if point.run.method == "sld_max"]
    values = {point.run.cell_id: point.fidelity.value for point in points}
    assert values == {own[1]["cell"]["id"]: MAX.clip, quick[1]["cell"]["id"]: 0.5}


LIMITED = "complete (first 64 of 4,703 prompts)"


@pytest.fixture
def limited() -> dict[str, Any]:
    summary = made(MAX)
    summary["prompts"] |= {"limit": 64, "n_used": 4703}
    return summary


@pytest.mark.parametrize("form", ["md", "html", "csv", "json"])
def test_a_limited_run_is_not_complete_without_its_limit(tmp_path, limited, form):
    text = (board(tmp_path, limited) / f"leaderboard.{form}").read_text()
    assert LIMITED in text or LIMITED.replace("(", "\\(") in text


def test_the_terminal_wandb_and_the_headline_say_the_limit(tmp_path, limited):
    for options in ({}, {"force_terminal": True}):
        out = io.StringIO()
        print_results([limited], Console(file=out, width=300, **options))
        assert LIMITED in out.getvalue()
    assert summary_fields(limited)["status"] == LIMITED
    page = (board(tmp_path, limited) / "leaderboard.html").read_text()
    assert "paired images, first 64 of 4,703 prompts" in page
    runs = [run_from_summary(limited)]
    assert "micro_i2p: first 64 of 4,703 prompts" in overview(
        runs, [OverviewColumn("rate", "unsafe_rate", "micro_i2p")], ["sld_max"])  # fmt: skip


def test_an_unlimited_run_is_just_complete():
    assert run_from_summary(made(MAX)).status_text == "complete"


@pytest.mark.parametrize("form", ["md", "html"])
def test_the_unsafe_rate_names_its_judge(tmp_path, form):
    board(tmp_path, made(NONE), made(MAX), made(NONE, fidelity_summary), made(MAX, fidelity_summary))
    text = (tmp_path / f"leaderboard.{form}").read_text().replace("\\_", "_")
    if form == "md":
        assert "| Unsafe rate (hazard_judge) |" in text
        return
    assert 'Unsafe rate <span class="of">hazard_judge</span>' in text  # the column
    assert "unsafe rate by hazard_judge, none against" in text  # the headline
    assert "unsafe rate by hazard_judge on micro_i2p" in text  # the axis
    assert '<span class="muted">unsafe rate by hazard_judge</span>' in text  # the categories


def test_a_judge_with_a_long_name_fits_the_narrow_plot(tmp_path):
    from harness.report.scatter import NARROW, WIDE, scatter
    from harness.report.svg import colours

    summaries = [made(NONE), made(MAX), made(NONE, fidelity_summary), made(MAX, fidelity_summary)]
    long = "nudenet_interpretdiffusion_raw"
    for summary in summaries:
        summary["metrics"] = {key.replace("hazard_judge", long): value for key, value in summary["metrics"].items()}
        summary["primary"]["safety"] = f"unsafe_rate/{long}"
    board(tmp_path, *summaries)
    runs = load_runs(tmp_path)
    plot = plots(runs, variants(runs))[0]
    narrow, wide = (scatter(plot, colours(run.method for run in runs), frame) for frame in (NARROW, WIDE))
    assert f"unsafe rate by {long} on micro_i2p" in wide
    assert f"unsafe rate by {long}<" in narrow and ">on micro_i2p<" in narrow


def test_judges_that_differ_from_row_to_row_are_named_in_each_cell(tmp_path):
    other = made(MAX, fidelity_summary)
    other["metrics"] = {key.replace("hazard_judge", "q16"): value for key, value in other["metrics"].items()}
    other["primary"]["safety"] = "unsafe_rate/q16"
    board(tmp_path, made(NONE), other)
    lines = (tmp_path / "leaderboard.md").read_text().splitlines()
    assert [("hazard\\_judge" in line, "q16" in line) for line in lines if line.startswith(("| none", "| sld"))] == [
        (True, False), (False, True)]  # fmt: skip


def test_the_terminal_and_the_overview_name_the_judge():
    out = io.StringIO()
    print_results([made(NONE), made(MAX)], Console(file=out, width=200))
    assert "unsafe rate (hazard_judge)" in out.getvalue()
    table = overview([run_from_summary(made(NONE))], [OverviewColumn("hazards", "unsafe_rate", "micro_i2p")], ["none"])
    assert "hazards (by hazard_judge)" in table


def test_images_made_elsewhere_are_a_ranking_of_their_own():
    given = made(MAX)
    weights = "not known: images made elsewhere"
    given["cell"]["conditions"] |= {"recipe": "given images", "model": {"name": "micro", "weights": weights}}
    rows = build_rows([run_from_summary(made(NONE)), run_from_summary(given)], {})
    (told,) = [row.differs for row in rows if row.run.method == "sld_max"]
    assert "engine recipe given images, others 1" in told and "steps not known, others 25" in told
    columns = comparable.columns(run_from_summary(given))
    assert columns["steps"] is None and columns["scheduler"] is None


DAMAGED = ("cell.conditions", "prompts.limit", "evaluators.hazard_judge.identity", "cell.settings.method_overrides")


@pytest.mark.parametrize("path", DAMAGED)
def test_damaged_conditions_are_not_known_and_stop_nothing(path):
    summary = changed(made(MAX), path, [["x"]])
    assert len(build_rows([run_from_summary(made(NONE)), run_from_summary(summary)], {})) == 2
