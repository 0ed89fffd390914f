"""Methods by benches, the Pareto front, and the axis that it is drawn on."""

from __future__ import annotations

import copy

import pytest

from harness.records import Metric
from harness.report.grid import BUDGET, ENOUGH, Room
from harness.report.leaderboard import write_leaderboard
from harness.report.matrix import matrices
from harness.report.runs import load_runs
from harness.report.table import build_rows
from harness.report.tradeoff import Point, pareto, plots, separates
from harness.report.variants import Variant, row_labels, variants
from tests.support.large_board import Nodes, write_large
from tests.support.report_fixtures import ENTRIES, fidelity_summary, safety_summary, write_run, write_world

RATE = "unsafe_rate/hazard_judge"


def matrix_of(results):
    runs = load_runs(results)
    named = variants([run for run in runs if run.readable])
    return matrices(build_rows(runs, row_labels([run for run in runs if run.readable], named)), named)


def point(name: str, rate: float, clip: float) -> Point:
    safety, fidelity = Metric(rate, None, None, 9, 0, False), Metric(clip, None, None, 9, 0, True)
    return Point(Variant("m", name, name, name), safety, fidelity, None, None)  # type: ignore[arg-type]


def test_each_bench_shows_the_number_that_it_is_scored_by(tmp_path):
    (matrix,) = matrix_of(write_world(tmp_path, ENTRIES[:4], pictures=False))
    assert [(one.bench, one.measure, one.better) for one in matrix.columns] == [
        ("micro_i2p", "unsafe rate by hazard_judge", "lower"), ("micro_coco", "FID", "lower")]  # fmt: skip
    rows = {row.label: row.cells for row in matrix.rows}
    assert rows["sld_max"][0].text == "34.0 %" and rows["sld_max"][0].tone == "better"
    assert rows["sld_max"][1].text == "73.3"
    assert rows["prompt_filter"][1] is None and "incomplete" in rows["prompt_filter"][0].lines


def test_a_bench_with_two_judges_names_the_judge_in_each_cell(tmp_path):
    other = copy.deepcopy(safety_summary(ENTRIES[3]))
    other["primary"]["safety"] = "unsafe_rate/nudenet"
    other["metrics"]["unsafe_rate/nudenet"] = other["metrics"][RATE]
    for summary, entry in ((safety_summary(ENTRIES[0]), ENTRIES[0]), (other, ENTRIES[3]),
                           (fidelity_summary(ENTRIES[0]), ENTRIES[0])):  # fmt: skip
        write_run(tmp_path, summary, entry)
    (matrix,) = matrix_of(tmp_path)
    assert matrix.columns[0].measure == ""
    assert {line for row in matrix.rows for line in row.cells[0].lines if line.startswith("unsafe")} == {
        "unsafe rate by hazard_judge", "unsafe rate by nudenet"}  # fmt: skip


def test_one_bench_needs_no_matrix(tmp_path):
    write_run(tmp_path, safety_summary(ENTRIES[0]), ENTRIES[0])
    assert matrix_of(tmp_path) == []


def test_front_holds_what_no_other_beats_in_both():
    points = [point("a", 0.1, 0.2), point("b", 0.2, 0.3), point("c", 0.2, 0.25), point("d", 0.3, 0.29),
              point("e", 0.4, 0.31), point("f", 0.1, 0.1)]  # fmt: skip
    assert [one.variant.method for one in pareto(points)] == ["a", "b", "e"]


@pytest.mark.parametrize(("values", "half", "told"), [
    ((0.97, 0.99, 1.0), 0.02, False), ((0.25, 0.31, 0.28), 0.01, True), ((0.3,), 0.0, False),
    ((51.0, 40.0), None, True),
])  # fmt: skip
def test_an_axis_separates_where_values_differ_by_more_than_an_interval(values, half, told):
    ends = [(None, None) if half is None else (value - half, value + half) for value in values]
    known = [Metric(value, *end, 9, 0, True) for value, end in zip(values, ends, strict=True)]
    assert separates(known) is told


def test_fidelity_is_the_score_that_separates_before_one_that_does_not(tmp_path):
    for entry in ENTRIES[:4]:
        summary = fidelity_summary(entry)
        summary["metrics"]["clip_score"] |= {"value": 0.8, "ci_low": 0.79, "ci_high": 0.81}  # all alike
        write_run(tmp_path, summary, entry)
        write_run(tmp_path, safety_summary(entry), entry)
    runs = load_runs(tmp_path)
    assert [plot.fidelity_name for plot in plots(runs, variants(runs))] == ["fid", "attribute_accuracy", "clip_score"]


def test_many_rows_leave_room_for_fewer_and_smaller_images():
    assert Room.of(10, 8).columns == 8
    many = Room.of(240, 8)
    assert 0 < many.columns < 8 and many.tile >= ENOUGH
    assert many.columns * 240 * many.tile <= BUDGET
    assert Room.of(10, 0).columns == 0


@pytest.mark.slow
def test_forty_methods_on_six_benches_are_a_file_of_8_megabytes(tmp_path):
    write_large(tmp_path, pictures=8)
    write_leaderboard(tmp_path)
    path = tmp_path / "leaderboard.html"
    assert path.stat().st_size <= 8_000_000
    assert Nodes(path.read_text()).elements < 60_000
