"""The numbers that people read: formats, what is missing, rows that depend on their own run only."""

from __future__ import annotations

import math

import pytest

from harness.records import Comparison, Metric
from harness.report import format as fmt
from harness.report.runs import BrokenSummaryError, load_runs, run_from_summary
from harness.report.table import NOT_MEASURED, build_rows
from harness.report.variants import row_labels, variants
from tests.support.report_fixtures import ENTRIES, Entry, compare, rate_metric, safety_summary, write_world

RATE = "unsafe_rate/hazard_judge"


def rows_of(summaries):
    runs = [run_from_summary(summary) for summary in summaries]
    return build_rows(runs, row_labels(runs, variants(runs)))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        (RATE, 0.4123, "41.2 %"),
        ("clip_score", 0.8012, "0.801"),
        ("clip_score", 31.234, "31.23"),
        ("kid", -0.00012, "−0.0001"),
        ("fid", 151.26, "151.3"),
    ],
)
def test_number_is_shown_with_its_unit(name, value, shown):
    assert fmt.number(name, value) == shown


def test_unknown_number_is_said_in_words_and_never_zero():
    failed = Metric(None, None, None, 0, 12, False)
    noted = Metric(None, None, None, 0, 0, False, note="no reference set")
    assert fmt.value(RATE, failed) == "n/a (12 errors)"
    assert fmt.value(RATE, Metric(None, None, None, 0, 1, False)) == "n/a (1 error)"
    assert fmt.value("fid", noted) == "n/a (no reference set)"


def test_p_value_never_rounds_across_the_line():
    assert fmt.p_value(0.04996) == "p = .0500"
    assert fmt.p_value(0.0002) == "p < .001"
    assert fmt.p_value(math.nan) == "p n/a"


@pytest.mark.parametrize(
    ("difference", "p_value", "higher", "tone"),
    [
        (-0.2, 0.001, False, "better"),
        (0.2, 0.001, False, "worse"),
        (0.2, 0.001, True, "better"),
        (-0.2, 0.2, False, "same"),
    ],
)
def test_tone_needs_a_difference_beyond_chance(difference, p_value, higher, tone):
    metric = Metric(0.5, 0.4, 0.6, 100, 0, higher)
    assert fmt.tone(metric, Comparison("none", difference, -1.0, 1.0, p_value, 100, "test")) == tone


def test_rate_with_unknowns_shows_its_worst_case():
    (row,) = rows_of([safety_summary(Entry("none", 0.5, 0.8, unknown=30))])
    assert row.cells["unsafe_rate"].text == "50.0 %"
    assert "30 unknown: 45.0–55.0" in row.cells["unsafe_rate"].detail
    assert row.cells["status"].text == "incomplete"


def test_not_measured_is_told_apart_from_failed():
    summary = safety_summary(ENTRIES[0])
    summary["metrics"]["fid"] = {"value": None, "n": 0, "n_unknown": 7, "higher_is_better": False}
    (row,) = rows_of([summary])
    assert row.cells["fid"].text == "n/a (7 errors)"
    assert row.cells["fid"].sort is None
    assert row.cells["lpips"] is NOT_MEASURED


def test_row_does_not_depend_on_who_else_is_on_the_board():
    entries = [Entry("none", 0.76, 0.80), Entry("sld_max", 0.34, 0.70), Entry("sdd", 0.5, 0.75)]
    everyone = {row.label: row.cells for row in rows_of([safety_summary(entry) for entry in entries])}
    for entry in entries:
        (alone,) = rows_of([safety_summary(entry)])
        assert alone.cells == everyone[entry.method]
    order = [row.label for row in rows_of([safety_summary(entry) for entry in entries])]
    assert order == ["sld_max", "sdd", "none"]


def test_rows_with_no_value_come_last():
    summary = safety_summary(Entry("esd", 0.1, 0.8))
    summary["metrics"][RATE] |= {"value": None, "n_unknown": 300, "n": 0}
    assert [row.label for row in rows_of([summary, safety_summary(ENTRIES[0])])] == ["none", "esd"]


def test_variants_of_one_method_are_named_by_what_differs(tmp_path):
    runs = [run for run in load_runs(write_world(tmp_path, pictures=False)) if run.readable]
    labels = row_labels(runs, variants(runs))
    own = sorted(labels[run.cell_id] for run in runs if run.method == "safedir" and run.bench == "micro_i2p")
    assert own == [f"safedir strength={s}" for s in ("0.5", "1", "2", "4")]


def test_same_method_under_other_settings_gets_its_own_label():
    first, second = safety_summary(ENTRIES[0]), safety_summary(ENTRIES[0])
    second["cell"] = second["cell"] | {"id": "f" * 12, "settings": second["cell"]["settings"] | {"seed": 7}}
    assert sorted(row.label for row in rows_of([first, second])) == ["none seed=0", "none seed=7"]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema",), 2, "schema is 2"),
        (("status",), "done", "status is 'done'"),
        (("cell",), {"id": "x"}, "cell needs"),
        (("metrics",), None, "metrics is NoneType"),
        (("metrics", RATE, "value"), "0.4", "value is '0.4'"),
        (("metrics", RATE, "n"), -1, "n is -1"),
        (("metrics", RATE, "higher_is_better"), None, "higher_is_better"),
    ],
)
def test_broken_summary_says_where(path, value, says):
    summary = safety_summary(ENTRIES[1])
    place = summary
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BrokenSummaryError, match=says.replace("(", r"\(")):
        run_from_summary(summary)


def test_number_that_is_not_finite_is_not_a_number():
    summary = safety_summary(ENTRIES[1])
    summary["metrics"][RATE] |= {"value": math.nan, "n_unknown": 4}
    summary["comparisons"][RATE]["p_value"] = None
    run = run_from_summary(summary)
    assert run.metrics[RATE].value is None
    assert fmt.tone(run.metrics[RATE], run.comparisons[RATE]) == "same"


def test_fixture_intervals_hold_their_values():
    metric = rate_metric(0.3, 100)
    assert metric.ci_low < metric.value < metric.ci_high
    assert compare(-0.2, 0.05, 100, "t").p_value < 0.001
