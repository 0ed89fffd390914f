"""The overview: one row a method over several benches, with what is refused, missing or not measured said so."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from harness.cells.settings import OverviewColumn
from harness.records import Comparison, Metric
from harness.report import write as reporting
from harness.report.against import Against
from harness.report.overview import overview
from harness.report.run import Run

RATE = "unsafe_rate/judge"


def metric(value: float | None, note: str | None = None) -> Metric:
    return Metric(value, None, None, 50, 0, False, note=note)


def run(method: str, bench: str, metrics: dict[str, Metric], training: dict[str, Any] | None = None,
        strength: float = 1.0, **comparisons: Any) -> Run:
    return Run(f"{method} {bench} {strength}", "micro", method, bench, "complete", metrics=metrics,
               against={"none": Against("none", None, comparisons.get("by_name", {}))} if comparisons else {},
               summary={"training": training or {}},
               cell={"methods": [{"name": method, "strength": strength}]})


def less(difference: float, p: float) -> Comparison:
    return Comparison("none", difference, difference - 0.1, difference + 0.1, p, 50, "mcnemar")


COLUMNS = [
    OverviewColumn("hazards", "unsafe_rate", "i2p", difference=True),
    OverviewColumn("FID", "fid", "coco"),
    OverviewColumn("training", "training_seconds"),
    OverviewColumn("cost", "relative_seconds", "coco"),
]


def cells(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_a_row_is_a_method_in_the_order_asked_for_and_a_cell_says_what_it_compares():
    seconds = {"seconds_per_image": metric(2.0)}
    runs = [
        run("none", "i2p", {RATE: metric(0.8)}),
        run("none", "coco", {"fid": metric(50.0), **seconds}),
        run("esd", "i2p", {RATE: metric(0.3)}, {"esd": {"hash": "a", "seconds": 60}},
            by_name={RATE: less(-0.5, 1e-6)}),
        run("esd", "coco", {"fid": metric(None, "no reference"), "seconds_per_image": metric(3.0)}),
    ]
    found = cells(overview(runs, COLUMNS, ["esd", "none", "absent"]))
    assert list(found)[:4] == ["method", "---", "esd", "none"]
    assert found["esd"] == ["30.0 %; \N{MINUS SIGN}50.0 pts against none, p < .001", "n/a (no reference)", "60", "1.50"]
    assert found["none"] == ["80.0 %", "50.0", "\N{EM DASH}", "1.00"]


def test_a_method_that_refuses_is_compared_by_what_is_shown_of_all_prompts():
    rates = {RATE: metric(0.6), f"shown_{RATE}": metric(0.2)}
    filtered = run("filter", "i2p", rates, by_name={RATE: less(0.0, 1.0), f"shown_{RATE}": less(-0.4, 1e-4)})
    told = cells(overview([filtered], COLUMNS, ["filter"]))["filter"][0]
    assert told == "60.0 % of those generated, 20.0 % of all; \N{MINUS SIGN}40.0 pts against none, p < .001"


def test_one_artifact_with_several_curves_is_counted_once():
    training = {"safedir (a)": {"hash": "h", "seconds": 30}, "safedir (b)": {"hash": "h", "seconds": 30},
                "esd": {"hash": "e", "seconds": 12}}
    both = run("esd+safedir", "i2p", {}, training)
    assert cells(overview([both], COLUMNS, ["esd+safedir"]))["esd+safedir"][2] == "42"


def test_a_method_with_several_settings_has_a_row_for_each():
    runs = [run("sld", bench, {RATE: metric(value)}, strength=strength)
            for strength, value in ((1.0, 0.5), (2.0, 0.25)) for bench in ("i2p", "coco")]
    found = cells(overview([run("none", "i2p", {}), *runs], COLUMNS, ["none", "sld"]))
    assert list(found)[2:] == ["none", "sld strength=1", "sld strength=2"]
    assert [found[f"sld strength={n}"][0] for n in (1, 2)] == ["50.0 %", "25.0 %"]


def test_runs_that_differ_in_nothing_that_a_row_shows_are_numbered_and_none_is_lost():
    first, second = (run("sld", "i2p", {RATE: metric(value)}) for value in (0.5, 0.25))
    found = cells(overview([first, replace(second, cell_id="other seed")], COLUMNS, ["sld"]))
    assert {name: row[0] for name, row in list(found.items())[2:]} == {"sld": "50.0 %", "sld (2)": "25.0 %"}


def test_cells_that_the_command_does_not_ask_for_are_not_in_its_table(tmp_path, monkeypatch):
    old, new = (run("sld", "i2p", {RATE: metric(value)}, strength=strength) for value, strength in ((0.5, 1), (0.2, 2)))
    monkeypatch.setattr("harness.report.runs.load_runs", lambda results: [old, new])
    settings = SimpleNamespace(overview=[OverviewColumn("hazards", "unsafe_rate", "i2p")])
    asked = SimpleNamespace(cell_id=new.cell_id, method="sld")
    reporting._write_overview(settings, [asked], tmp_path, Console(quiet=True))
    found = cells((tmp_path / "overview.md").read_text())
    assert list(found)[2:] == ["sld"] and found["sld"] == ["20.0 %"]
