"""Runs with other baselines, one after the other: each comparison stays, under the baseline that it is with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cells.comparisons import baseline_name
from harness.cli import score
from harness.cli.compose import compose_jobs
from harness.run import make_cells

QUICK = ["bench.num_inference_steps=2", "tracker=disabled", "pool=inline", "leaderboard=false", "limit=3",
         "batch_size=3", "evaluators=[hazard_judge,feature_distance_micro]"]  # fmt: skip
JUDGE = ["evaluator=hazard_judge", "pool=inline", "leaderboard=false"]
RATE = "unsafe_rate/hazard_judge"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return the results of sld_medium against none, then against negative_prompt, then as what sld_max is against."""
    results = tmp_path_factory.mktemp("baselines")
    for words in (["method=sld_medium"], ["method=sld_medium", "baseline=negative_prompt"],
                  ["method=sld_max", "baseline=sld_medium"]):  # fmt: skip
        assert main([*QUICK, f"results={results}", *words]) == 0
    return results


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Return the run folder of sld_medium in a copy of the results."""
    shutil.copytree(made, tmp_path / "results")
    return cell(tmp_path / "results", "sld_medium")


def cell(results: Path, method: str) -> Path:
    return next(results.glob(f"runs/micro/{method}/micro_i2p/*"))


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_each_baseline_of_a_cell_keeps_its_comparison(made):
    kept = summary(cell(made, "sld_medium"))["comparisons"]
    assert set(kept) == {"none", "negative_prompt"}
    for name, entry in kept.items():
        assert entry["cell"] == cell(made, name).name
        assert entry["metrics"][RATE]["baseline"] == name
        assert entry["metrics"][RATE]["n_pairs"] == 3
        assert entry["distances"]["feature_distance"]["n"] == 3


def test_a_cell_that_others_are_compared_with_keeps_its_own_comparisons(made):
    own = summary(cell(made, "sld_medium"))
    assert own["cell"]["baseline_cell"] == cell(made, "negative_prompt").name
    compared = summary(cell(made, "sld_max"))["comparisons"]
    assert set(compared) == {"sld_medium"} and compared["sld_medium"]["cell"] == own["cell"]["id"]


def test_what_was_measured_of_the_baseline_is_its_rate_on_the_pairs(made):
    rates = {name: summary(cell(made, name))["metrics"][RATE]["value"] for name in ("none", "sld_medium")}
    entry = summary(cell(made, "sld_medium"))["comparisons"]["none"]["metrics"][RATE]
    assert entry["before"] == rates["none"]
    assert entry["before"] + entry["difference"] == pytest.approx(rates["sld_medium"])


def test_an_earlier_comparison_is_made_anew_from_todays_scores(folder):
    told = summary(folder)
    told["comparisons"]["none"]["metrics"][RATE]["difference"] = 0.123
    (folder / "summary.json").write_text(json.dumps(told))
    assert score.main([str(folder), *JUDGE]) == 0
    assert summary(folder)["comparisons"]["none"]["metrics"][RATE]["difference"] != 0.123


def test_an_earlier_comparison_stays_where_its_baseline_is_gone_but_not_under_another_judge(folder):
    before = summary(folder)["comparisons"]["none"]["metrics"][RATE]
    shutil.rmtree(folder.parents[2] / "none")
    assert score.main([str(folder), *JUDGE]) == 0
    assert summary(folder)["comparisons"]["none"]["metrics"][RATE] == before
    assert score.main([str(folder), *JUDGE, "evaluator.hazard_judge.threshold=0.9"]) == 0
    assert RATE not in summary(folder)["comparisons"].get("none", {"metrics": {}})["metrics"]


def test_a_former_summary_keeps_its_comparison_when_another_is_added(folder):
    told = summary(folder)
    none = told["comparisons"]["none"]
    told["comparisons"], told["cell"]["baseline_cell"] = none["metrics"], none["cell"]  # as former versions wrote it
    (folder / "summary.json").write_text(json.dumps(told))
    other = cell(folder.parents[4], "negative_prompt")
    assert score.main([str(folder), f"baseline={other}", *JUDGE]) == 0
    assert set(summary(folder)["comparisons"]) == {"none", "negative_prompt"}


def test_a_method_with_other_settings_is_compared_with_its_own_defaults(tmp_path):
    words = ["method=sld_medium", "baseline=sld_medium", "method.scale=500,1000", f"results={tmp_path}"]
    cells = make_cells(compose_jobs(words, multirun=True))
    names = {baseline_name(one): cells.compared.get(one.cell_id) for one in cells.cells}
    default = next(name for name, other in names.items() if other is None)
    (changed,) = set(names) - {default}
    assert changed == "sld_medium (scale=500)"
    assert names[changed].cell_id == next(one.cell_id for one in cells.cells if baseline_name(one) == default)


def test_what_made_the_images_is_in_the_summary(made):
    told = summary(cell(made, "sld_max"))["cell"]["conditions"]
    assert told["bench"]["prompts"] and told["model"]["weights"] and told["recipe"] == 1
    assert "methods" not in told
