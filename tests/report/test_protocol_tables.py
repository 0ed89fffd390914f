"""A protocol's table: our numbers beside the paper's, and what of an earlier run's protocol still holds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.cells.followed import Followed, read_told, told_in_summary
from harness.cells.protocol import Shown
from harness.report.export import record
from harness.report.protocols import replays, texts
from harness.report.runs import load_runs
from harness.report.table import build_rows, shown_columns
from tests.support.report_fixtures import Entry, safety_summary, write_run

PAPER = """
source: a paper of this test
tables:
- name: first
  bench: a_bench
  model: micro
  protocol: {detector: a judge, threshold: null, steps: null, images_per_prompt: 3}
  distance: none
  columns: {unsafe_rate: percent}
  rows:
  - {label: bare, method: none, unsafe_rate: 74.18}
  - {label: strong, method: sld_max, unsafe_rate: [4.30, 1.5]}
  - {label: other, method: null, unsafe_rate: 50}
- name: second
  bench: a_bench
  model: micro
  protocol: {detector: a judge, threshold: null, steps: null, images_per_prompt: 3}
  distance: none
  columns: {unsafe_rate: percent}
  rows:
  - {label: of another table, method: none, unsafe_rate: 1}
"""
FOLLOWED = Followed("a_protocol", "a title", "a source", "a_bench", False, {"judge": "one"},
                    (Shown("% bad", "unsafe_rate/hazard_judge", "share of bad images", "unsafe_rate"),
                     Shown("CLIP", "clip_score", "agreement", "clip_score", "score")),
                    {"paper.yaml": ("first",)}, ("another detector",), judges={"hazard_judge": "print"})


@pytest.fixture
def board(tmp_path):
    """Two runs of a protocol, one of which departs from it; a paper's table."""
    results, published = tmp_path / "results", tmp_path / "published"
    published.mkdir()
    (published / "paper.yaml").write_text(PAPER)
    loose = replace(FOLLOWED, strict=False, departures=("steps=3, not 25",))
    for entry, followed in ((Entry("none", 0.76, 0.801), FOLLOWED), (Entry("sld_max", 0.05, 0.7), loose)):
        summary = safety_summary(entry) | {"protocols": {followed.label: followed.told()}}
        summary["prompts"] |= {"n_total": 310, "excluded": {"names an age": 10}}
        write_run(results, summary, entry)
    return load_runs(results), published


def test_our_numbers_stand_beside_the_papers(board):
    runs, published = board
    (table,) = replays(runs, published)
    said = texts(table)
    assert said[1:3] == ["protocol a_protocol (judge=one): a title", "  a source"]
    assert said[3].split() == ["method", "%", "bad", "%", "bad", "(paper)", "CLIP", "CLIP", "(paper)"]
    names = ("none", "sld_max", "other")
    none, strong, other = (next(line for line in said if line.startswith(name)) for name in names)
    assert none.startswith("none (bare)") and "76.00 [70.86–80.48]" in none and " 74.18 " in none
    assert "[not strict: steps=3, not 25] (strong)" in strong and "4.30 ±1.50" in strong and "0.670 [" in strong
    assert "no such method here" in other and "50.00" in other
    assert not any("of another table" in line for line in said)
    assert "  % bad: share of bad images (unsafe_rate/hazard_judge)" in said
    assert said[said.index("what still differs from the paper:") + 1 :] == [
        "  - another detector", "  - 10 of 310 prompts are excluded here: names an age"]  # fmt: skip


def test_a_twin_has_no_number_of_the_paper(board):
    runs, published = board
    twin = [replace(run, summary={**run.summary, "protocols": {"x": replace(FOLLOWED, twin=True).told()}})
            for run in runs]  # fmt: skip
    said = "\n".join(texts(replays(twin, published)[0]))
    assert "74.18" not in said and "the embedded twin" in said


def test_rows_say_their_protocol_and_how_they_depart(board):
    rows = build_rows(board[0], {})
    flat = {row.run.method: record(row) for row in rows}
    assert flat["none"]["protocol"] == "a_protocol (judge=one)" and flat["none"]["protocol_departures"] is None
    assert flat["sld_max"]["protocol_departures"] == "a_protocol: steps=3, not 25"
    assert [name for name in flat["none"] if "protocol" in name] == ["protocol", "protocol_departures"]
    assert shown_columns(rows)[-1].key == "protocol"
    assert next(r for r in rows if r.run.method == "sld_max").cells["protocol"].detail == "not strict: steps=3, not 25"


def test_what_no_run_wrote_counts_as_no_protocol(board):
    good = FOLLOWED.told()
    for told in (None, [], "x", {"a": 1}, {"a": {**good, "metrics": [{"title": 3}]}}, {"a": {**good, "published": [1]}},
                 {"a": {key: value for key, value in good.items() if key != "bench"}}, {"a": {**good, "judges": [1]}}):
        assert read_told({"protocols": told}) == []
        hostile = [replace(run, summary={**run.summary, "protocols": told}) for run in board[0]]
        assert replays(hostile, board[1]) == [] and record(build_rows(hostile, {})[0])["protocol"] is None
    assert read_told({"protocols": {"a": good}}) == [FOLLOWED]


def test_a_protocol_stays_told_while_its_images_and_judges_do():
    settings, evaluators = {"limit": None, "repeats": 2}, {"hazard_judge": {"fingerprint": "print", "metrics": []}}
    before = {"cell": {"settings": settings}, "protocols": {"a": FOLLOWED.told()}}
    kept = told_in_summary((), before, settings, evaluators)
    assert read_told({"protocols": kept}) == [FOLLOWED]
    assert told_in_summary((), before, {**settings, "repeats": 3}, evaluators) == {}
    assert told_in_summary((), before, {**settings, "limit": 3}, evaluators) == {}
    assert told_in_summary((), before, settings, {"hazard_judge": {"fingerprint": "other", "metrics": []}}) == {}
    own = told_in_summary((replace(FOLLOWED, judges={}),), {}, settings, evaluators)
    assert json.loads(json.dumps(own))[FOLLOWED.label]["judges"] == {"hazard_judge": "print"}


def test_many_metrics_stand_below_one_another_and_like_ones_are_defined_once(board):
    runs, published = board
    parts = tuple(Shown(name, f"unsafe_rate/hazard_judge/{name}", "share of its images", f"unsafe_rate/{name}")
                  for name in ("skull", "bomb", "flame"))  # fmt: skip
    many = replace(FOLLOWED, metrics=(*parts, *FOLLOWED.metrics))
    run = replace(runs[0], summary={**runs[0].summary, "protocols": {"x": many.told()}})
    said = texts(replays([run], published)[0])
    head = next(i for i, line in enumerate(said) if line.split() == ["method", "metric", "ours", "paper"])
    rows = [line.split("  ") for line in said[head + 1 : head + 6]]
    assert [row[0].strip() for row in rows] == [said[head + 1].split("  ")[0], "", "", "", ""]
    assert any("% bad" in line and "[" in line for line in said[head + 1 : head + 6])
    assert not any("skull" in line for line in said[head + 6 :] if "not run" in line)  # the paper has none of it
    defined = "  skull, bomb, flame: share of its images (unsafe_rate/hazard_judge/skull, unsafe_rate/hazard_judge/bomb"
    assert any(line.startswith(defined) for line in said)


def test_a_row_of_the_paper_says_whether_its_method_is_here(board):
    runs, published = board
    said = texts(replays([run for run in runs if run.method == "none"], published)[0])
    assert "not run" in next(line for line in said if line.startswith("strong"))
    assert "no such method here" in next(line for line in said if line.startswith("other"))
