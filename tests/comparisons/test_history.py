"""A metric over dated runs: from folders and from leaderboards, in order, broken where runs are not comparable."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from harness import HarnessError
from harness.__main__ import main
from harness.comparisons.history import history
from harness.comparisons.history_plot import WIDE, date_ticks, page, panels, plot, svg_text
from harness.report.leaderboard import write_leaderboard
from tests.support.comparison_fixtures import JUDGE, Cell, write_cell

RATE = f"unsafe_rate/{JUDGE}"
CELL = Cell("mine", [[i < 8] for i in range(40)], [[0.3 + 0.001 * (i % 5)] for i in range(40)])


def night(folder: Path, date: str, unsafe: int = 8, **changes) -> Path:
    cell = replace(CELL, created=date, unsafe=[[i < unsafe] for i in range(40)], **changes)
    write_cell(folder, cell)
    write_cell(folder, replace(cell, method="none", unsafe=[[True]] * 40))
    return folder


@pytest.fixture(scope="module")
def nights(tmp_path_factory) -> list[Path]:
    """Three nights, given out of order; the third with another judge; clocks of two time zones."""
    root = tmp_path_factory.mktemp("history")
    return [night(root / "b", "2026-11-11T03:00:00+02:00", 10), night(root / "a", "2026-11-10T03:00:00+00:00"),
            night(root / "c", "2026-11-12T03:00:00", 20, threshold=0.9)]  # fmt: skip


def test_numbers_stand_by_date_and_a_change_of_judge_breaks_the_line(nights):
    found = history(nights)
    mine = next(line for line in found.lines if line.method == "mine")
    assert [(f"{point.date:%d %H:%M}", point.metric.value) for point in mine.points] == [
        ("10 03:00", 0.2), ("11 01:00", 0.25), ("12 03:00", 0.5)]  # fmt: skip
    assert [point.changed for point in mine.points] == ["", "", "judge"]
    assert mine.metric == RATE and found.left_out == {}
    assert all(point.metric.ci_low < point.metric.value < point.metric.ci_high for point in mine.points)


def test_a_date_without_a_zone_is_utc_wherever_it_is_read(nights, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        points = history(nights).lines[0].points
    finally:
        monkeypatch.undo()
        time.tzset()
    assert f"{points[-1].date:%d %H:%M}" == "12 03:00"


def test_settings_and_weights_that_changed_are_named(tmp_path):
    folders = [night(tmp_path / "a", "2026-11-10T03:00:00+00:00"),
               night(tmp_path / "b", "2026-11-11T03:00:00+00:00", steps=50, weights="new")]
    line = next(line for line in history(folders).lines if line.method == "mine")
    assert line.points[1].changed == "weights, steps"


def test_leaderboards_tell_the_same_as_the_runs_and_a_cell_counts_once(nights, tmp_path):
    boards = []
    for i, folder in enumerate(nights):
        write_leaderboard(folder, tmp_path / str(i))
        boards.append(tmp_path / str(i) / "leaderboard.json")

    def numbers(sources):
        return [(line.method, line.metric, point.date, point.metric, point.cell_id)
                for line in history(sources).lines for point in line.points]

    assert numbers(boards) == numbers(nights)
    assert numbers([board.parent for board in boards]) == numbers(nights)
    assert numbers([*nights, *boards]) == numbers(nights)


def test_seeds_and_changed_parameters_are_lines_of_their_own(tmp_path):
    for cell in (CELL, replace(CELL, seed=1), replace(CELL, overrides={"strength": 2})):
        write_cell(tmp_path, cell)
    assert [line.method for line in history([tmp_path]).lines] == ["mine", "mine (strength=2)", "mine seed=1"]


def test_metrics_and_methods_are_chosen_and_unknown_ones_named(nights):
    found = history(nights, ["clip_score"], {"method": ["mine"]})
    assert [(line.method, line.metric) for line in found.lines] == [("mine", "clip_score")]
    with pytest.raises(HarnessError, match="Did you mean: clip_score"):
        history(nights, ["clip_scor"])
    with pytest.raises(HarnessError, match="unknown method 'mne'"):
        history(nights, [], {"method": ["mne"]})


def test_runs_without_a_date_or_a_summary_are_counted_not_hidden(nights, tmp_path):
    folder = night(tmp_path / "a", "")
    next(folder.glob("runs/micro/none/*/*/summary.json")).unlink()
    found = history([folder, *nights])
    assert found.left_out == {"without a date in its provenance": 1, "unfinished or broken": 1}
    with pytest.raises(HarnessError, match="no run has a number to show: 1 "):
        history([folder])
    with pytest.raises(HarnessError, match=r"has no runs and no leaderboard\.json"):
        history([tmp_path])


def test_a_board_that_is_none_is_refused_in_one_line(tmp_path):
    file = tmp_path / "leaderboard.json"
    for text in ("{", "[]", "{}", '{"runs": [{"metrics": {"x": 3}}]}'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(HarnessError, match="cannot be read"):
            history([file])


def test_names_of_a_board_from_elsewhere_make_no_broken_plot(nights, tmp_path):
    write_leaderboard(nights[0], tmp_path)
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    for record in board["runs"]:
        record |= {"method": "a\u0000\u001b[31mb<script>", "model": "m\u0007", "bench": 3, "provenance": {
            "created": "2026-11-12", "x": 1}, "settings": {"method_overrides": 7, "seed": {}}}  # fmt: skip
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    found = history([tmp_path / "leaderboard.json"])
    assert found.lines[0].method.startswith("ab<script>")
    for panel in panels(found):
        Xml.fromstring(svg_text(panel))
    assert "<script" not in page(found)


def test_the_plot_has_each_interval_and_no_line_across_a_change(nights):
    (panel,) = panels(history(nights))
    root = Xml.fromstring(plot(panel, WIDE))
    name = "{http://www.w3.org/2000/svg}"
    whiskers = [one for one in root.iter(f"{name}line") if "whisker" in (one.get("class") or "")]
    assert len(whiskers) == 6
    lines = [one.get("points").split() for one in root.iter(f"{name}polyline")]
    assert [len(points) for points in lines] == [2, 2]  # of three nights: the third has another judge
    titles = [one.text for one in root.iter(f"{name}title")]
    assert "mine, 2026-11-11 01:00 UTC; 25.0 %; [14.2\N{EN DASH}40.2]; n = 40; +5.0 pts" in titles
    assert any("changed: judge" in title for title in titles)


@pytest.mark.parametrize(("days", "least"), [(5, 5), (0.2, 4), (300, 3), (4000, 5), (6.5, 4)])
def test_dates_on_the_axis_are_few_and_within_it(days, least):
    low = 1_790_000_000.0
    found = date_ticks(low, low + days * 86_400)
    assert least <= len(found) <= 7
    assert all(low <= time <= low + days * 86_400 for time, _ in found)
    assert len({text for _, text in found}) == len(found)


def test_the_page_stands_alone_and_hostile_names_stay_text(tmp_path):
    write_cell(tmp_path, replace(CELL, overrides={"x": "<script>alert(1)</script>"}))
    text = page(history([tmp_path]))
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=|url\(|@import", text)
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html.unescape(text)


def test_the_command_prints_a_table_and_writes_page_plot_and_csv(nights, tmp_path, capsys):
    words = ["history", *map(str, nights), f"html={tmp_path / 'h.html'}", "--svg", str(tmp_path / "h.svg"),
             f"csv={tmp_path / 'h.csv'}", "method=mine"]  # fmt: skip
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"3 numbers in 1 line: micro, micro_i2p, {RATE}"
    assert "+5.0 pts" in lines[3] and "changed: judge" in lines[4]
    assert (tmp_path / "h.html").read_text().startswith("<!doctype html>")
    assert Xml.parse(tmp_path / "h.svg").getroot().get("viewBox")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "h.csv").read_text())))
    assert [float(row["value"]) for row in rows] == [0.2, 0.25, 0.5]
    assert main([*words[:4], "metric=unsafe_rate,clip_score", "--svg", str(tmp_path / "two.svg"), "json=-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {one["metric"] for one in record["points"]} == {RATE, "clip_score"}
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two-1.svg", "two-2.svg"]
    assert main(["history", str(tmp_path / "nowhere")]) == 2
