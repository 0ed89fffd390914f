"""Optuna chooses a method's settings: each trial is a run like any other, and two metrics are what it is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cli.compose import compose_jobs
from tests.cli.test_hydra_dialect import refused, write

QUICK = ["tracker=disabled", "pool=inline", "leaderboard=false", "baseline=null", "limit=2", "batch_size=2",
         "bench.num_inference_steps=2", "evaluators=[hazard_judge,clip_score_micro]"]  # fmt: skip
SEARCH = """# @package _global_
defaults:
  - override /method: sld_max
  - override /bench: micro_i2p_tune
  - override /hydra/sweeper: optuna
  - override /hydra/sweeper/sampler: random
hydra:
  sweeper:
    direction: [minimize, maximize]
    n_trials: 3
    n_jobs: 2
    params: {method.scale: "interval(1.0, 20.0)", method.warmup: "range(0,4)"}
"""


@pytest.fixture
def search(tmp_path: Path) -> list[str]:
    """Return the words of a search over two settings."""
    folder = write(tmp_path / "conf", "experiment/search", SEARCH)
    return ["-m", "--config-dir", folder, "experiment=search", *QUICK, f"results={tmp_path / 'out'}"]


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna", reason="Optuna is not installed: pip install optuna")


def metrics(tmp_path: Path) -> list[dict]:
    files = tmp_path.glob("out/runs/micro/sld_max/*/*/summary.json")
    return [json.loads(path.read_text())["metrics"] for path in files]


def test_each_trial_is_a_run_and_the_front_of_both_metrics_is_told(search, tmp_path, capsys, optuna):
    assert main(search) == 0
    said = capsys.readouterr().out
    cells = metrics(tmp_path)
    assert len(cells) == 3 and said.count("2 cells, ") == 1 and "trial 2: method.scale=" in said
    best = [line for line in said.splitlines() if line.startswith("best: trial ")]
    values = {(one["unsafe_rate/hazard_judge"]["value"], one["clip_score"]["value"]) for one in cells}
    front = [mine for mine in values
             if not any(other != mine and other[0] <= mine[0] and other[1] >= mine[1] for other in values)]
    told = {f"unsafe_rate/hazard_judge {rate:.4g}, clip_score {score:.4g}" for rate, score in front}
    assert {line.split(": ")[2] for line in best} == told
    assert main(search) == 0  # the sampler's seed is fixed: the same trials, whose images are there
    assert "0 of 4 images missing" in capsys.readouterr().out and len(metrics(tmp_path)) == 3


@pytest.mark.parametrize("code", [2, 130])
def test_a_search_that_is_stopped_starts_no_other_trial(search, code, monkeypatch, optuna):
    started = []
    monkeypatch.setattr("harness.cli.tuning.run", lambda jobs, command: started.append(jobs) or code)
    assert main([*search, "hydra.sweeper.n_jobs=1"]) == code and len(started) == 1


def test_the_rate_of_an_incomplete_cell_is_no_value_of_a_trial(search, monkeypatch, capsys, optuna):
    number = {"value": 0.0, "higher_is_better": False}
    good = {"metrics": {"unsafe_rate/hazard_judge": number, "clip_score": {"value": 1.0, "higher_is_better": True}}}
    monkeypatch.setattr("harness.cli.tuning.run", lambda jobs, command: 1)
    for status, best in (("incomplete", 0), ("complete", 1)):
        monkeypatch.setattr("harness.cells.store.CellStore.read_summary", lambda self: good | {"status": status})  # noqa: B023
        assert main([*search, "hydra.sweeper.n_trials=1"]) == 1 - best
        assert capsys.readouterr().out.count("best: trial ") == best


@pytest.mark.slow
def test_a_study_that_is_kept_goes_on(search, tmp_path, capsys, optuna):
    kept = [f"hydra.sweeper.storage='sqlite:///{tmp_path}/study.db'", "hydra.sweeper.study_name=mine"]
    assert main([*search, *kept, "hydra.sweeper.n_trials=1"]) == 0
    assert main([*search, *kept, "hydra.sweeper.n_trials=2"]) == 0
    assert len(metrics(tmp_path)) == 2 and "trial 1: " in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["hydra.sweeper.direction=minimize"], "1 values and there are 2 objectives"),
    (["hydra.sweeper.direction=[minimize,minimise]"], "Did you mean: minimize"),
    (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: expected an integer"),
    (["hydra.sweeper.sampler.sed=1"], "hydra.sweeper.sampler.sed"),
    (["+hydra.sweeper.sampler.sed=1"], "Did you mean: seed"),
    (["hydra.sweeper.params=null"], "nothing is searched"),
    (["hydra.sweeper.params={method.scale: 'interval(9,1)'}"], "interval(9,1)"),
    (["objectives=clip_score"], "2 values and there are 1 objectives: clip_score"),
])  # fmt: skip
def test_a_search_that_has_no_sense_is_one_line(words, said, search, tmp_path, capsys, optuna):
    assert said in refused(capsys, *search, *words)
    assert not (tmp_path / "out").exists()


def test_a_direction_that_makes_things_worse_is_refused(search, capsys, optuna):
    assert main([*search, "hydra.sweeper.direction=[maximize,maximize]"]) == 2
    assert "unsafe_rate/hazard_judge is to be minimized, and" in capsys.readouterr().err


def test_a_metric_that_the_bench_does_not_have_is_refused(search, capsys, optuna):
    assert main([*search, "objectives=[unsafe_rate/hazard_judge,clip_scor]"]) == 2
    assert "Did you mean: clip_score" in capsys.readouterr().err


def test_the_example_is_planned_and_fetched_for_as_one_job(tmp_path, capsys, optuna):
    assert main(["-m", "experiment=tune_safedir", "mode=plan", "tracker=disabled", f"results={tmp_path / 'x'}"]) == 0
    assert "hydra/sweeper=optuna runs 20 trials like this one, 1 at a time, over method.strength" in (
        capsys.readouterr().out)  # fmt: skip
    (job,) = compose_jobs(["experiment=tune_safedir"], multirun=True)
    assert (job.methods[0]["name"], job.bench["name"]) == ("safedir", "micro_i2p_tune")


def test_without_optuna_a_search_says_how_to_get_it(search, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install optuna" in refused(capsys, *search)
