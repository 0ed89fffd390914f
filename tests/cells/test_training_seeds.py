"""Several trainings of one method: planned as cells of one recipe, shown as one row with their spread."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cells.cell import Cell
from harness.cells.training_seeds import training_of_recipe, varies
from harness.cli.compose import compose_jobs
from harness.report.leaderboard import write_leaderboard
from harness.report.runs import load_runs
from harness.run import make_cells
from tests.run.test_run import QUICK
from tests.support.methods_registry import NUMBERS_ONLY, PRESETS, configs, tiny
from tests.training.test_artifact_use import SAFEDIR

FAST = [*SAFEDIR[:-3], "baseline=none", *SAFEDIR[-2:], "limit=3"]
SEEDED = {"concept_ablation", "esd_u", "esd_x", "hfi", "hfi_proxy", "interpret_fair", "interpret_responsible",
          "interpret_safe", "safedir", "safedir_anchor", "safedir_fair", "safedir_full", "sdd",
          "uce_debias"}  # fmt: skip


def cells(*words: str) -> list[Cell]:
    return list(make_cells(compose_jobs([*words], multirun=True)).cells)


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Path:
    """Return the results of two trainings of SafeDir beside the bare model."""
    results = tmp_path_factory.mktemp("board")
    assert main([*QUICK, f"results={results}", *FAST, "training_seeds=2"]) == 0
    write_leaderboard(results)
    return results


def summaries(results: Path, method: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(results.glob(f"runs/*/{method}/*/*/summary.json"))]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in NUMBERS_ONLY])
def test_it_is_known_which_methods_come_out_otherwise_with_another_seed(preset):
    known = preset in SEEDED
    assert varies(configs()[preset]) is known
    assert not known or tiny(preset).trains


@pytest.mark.parametrize("changes", [{"checkpoint": ["somewhere.pth"]}, {"strength": 0.0}])
def test_a_method_that_has_a_seed_and_trains_nothing_with_it_comes_out_the_same(changes):
    assert varies(configs()["safedir"])
    assert not varies({**configs()["safedir"], **changes})


def test_the_first_training_is_the_cell_as_it_was_and_images_share_their_noise():
    alone = cells("method=safedir", "bench=micro_i2p")
    several = cells("method=none,safedir", "bench=micro_i2p", "training_seeds=3")
    trained = [cell for cell in several if cell.method == "safedir"]
    assert len(several) == 4 and {cell.cell_id for cell in alone} <= {cell.cell_id for cell in several}
    assert len({cell.cell_id for cell in trained}) == 3
    assert [cell.spec.methods[0]["seed"] for cell in trained] == [0, 1, 2]
    assert trained[1].label == "micro/safedir/micro_i2p (seed=1)"
    assert all(cell.items() == several[0].items() and cell.pairing == several[0].pairing for cell in several)
    assert len({training_of_recipe(cell)["family"] for cell in trained}) == 1


def test_other_settings_are_another_recipe():
    one, other = (cells("method=safedir", "bench=micro_i2p", f"method.strength={s}", "baseline=null") for s in (1, 0.5))
    assert training_of_recipe(one[0])["family"] != training_of_recipe(other[0])["family"]
    assert training_of_recipe(cells("method=uce", "baseline=null")[0]) is None


def test_a_learned_word_and_who_uses_it_are_of_one_recipe_whatever_the_seed():
    """The word is named by its training, and so is what the other method removes."""
    trained = cells("method=[hfi_proxy,sdd]", "bench=micro_i2p", "training_seeds=2", "baseline=null")
    assert len({cell.cell_id for cell in trained}) == 2
    assert len({training_of_recipe(cell)["family"] for cell in trained}) == 1


def test_of_a_list_every_method_that_trains_has_another_seed():
    several = cells("method=[hfi_proxy,sdd]", "bench=micro_i2p", "training_seeds=2", "baseline=null")
    assert [[method["seed"] for method in cell.spec.methods] for cell in several] == [[0, 0], [1, 1]]


def test_the_seeds_of_training_go_on_from_the_methods_own():
    several = cells("method=safedir", "method.seed=7", "training_seeds=2", "baseline=null")
    assert [cell.spec.methods[0]["seed"] for cell in several] == [7, 8]


@pytest.mark.parametrize(("words", "said"), [
    (["method=sld_max", "training_seeds=2"], "training_seeds=2 has no effect: sld_max train without a seed"),
    (["-m", "method=none,uce", "training_seeds=2"], "has no effect: none, uce train without a seed"),
    (["method=safedir", "training_seeds=0"], "training_seeds=0: expected an integer from 1 to 100"),
    (["method=safedir", "training_seeds=two"], "training_seeds=two: expected an integer"),
    (["method=safedir", "training_seeds=2", "artifact=somewhere"], "artifact=... is a single training"),
])  # fmt: skip
def test_what_cannot_be_trained_again_is_one_line(words, said, capsys, tmp_path):
    assert main([*words, *QUICK, f"results={tmp_path}", "mode=plan"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_sweep_names_the_methods_that_stay_as_they_are(capsys, tmp_path):
    words = ["-m", "method=none,sld_max,safedir", "training_seeds=2", "mode=plan"]
    assert main([*QUICK, *words, f"results={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "note: training_seeds=2 has no effect on none, sld_max" in out and "4 cells" in out


def test_a_board_has_one_row_of_their_mean_and_spread(board):
    first, second = summaries(board, "safedir")
    (row,) = [run for run in load_runs(board) if run.method == "safedir"]
    rates = [summary["metrics"]["unsafe_rate/hazard_judge"] for summary in (first, second)]
    metric = row.metrics["unsafe_rate/hazard_judge"]
    assert metric.value == pytest.approx(sum(rate["value"] for rate in rates) / 2)
    assert metric.ci_low <= min(rate["ci_low"] for rate in rates) + 1e-9 or metric.ci_low == 0
    assert row.n_trainings == 2 and len(row.trainings) == 2
    assert row.cell_id == next(s["cell"]["id"] for s in (first, second) if s["cell"]["training"]["seed"] == 0)
    assert row.comparisons["unsafe_rate/hazard_judge"].n_pairs == 3


def test_every_page_tells_the_mean_the_spread_and_how_many_trainings(board, capsys):
    (row,) = [one for one in csv.DictReader((board / "leaderboard.csv").open()) if one["method"] == "safedir"]
    values = [s["metrics"]["unsafe_rate/hazard_judge"]["value"] for s in summaries(board, "safedir")]
    assert row["trainings"] == "2"
    ends = float(row["unsafe_rate_training_min"]), float(row["unsafe_rate_training_max"])
    assert ends == (min(values), max(values))
    assert float(row["unsafe_rate_ci_low"]) <= min(values) and float(row["unsafe_rate_ci_high"]) >= max(values)
    told = json.loads((board / "leaderboard.json").read_text())
    (own,) = [one for one in told["runs"] if one["method"] == "safedir"]
    by_seed = {s["cell"]["training"]["seed"]: s["metrics"]["unsafe_rate/hazard_judge"]["value"]
               for s in summaries(board, "safedir")}  # fmt: skip
    assert [(one["seed"], one["metrics"]["unsafe_rate/hazard_judge"]) for one in own["trainings_of"]] == [
        (0, by_seed[0]), (1, by_seed[1])]  # fmt: skip
    for name in ("leaderboard.md", "leaderboard.html"):
        page = (board / name).read_text()
        assert "mean of 2 trainings" in page and "trainings " in page
    assert main([*QUICK, f"results={board}", *FAST, "training_seeds=2"]) == 0
    out = capsys.readouterr().out
    assert "mean of 2 trainings" in out


def test_a_difference_of_one_training_says_so_everywhere(board, tmp_path, capsys):
    import shutil

    results = Path(shutil.copytree(board, tmp_path / "results"))
    other = next(s for s in summaries(results, "safedir") if s["cell"]["training"]["seed"] == 1)
    shutil.rmtree(next(results.glob(f"runs/*/safedir/*/{other['cell']['id']}")))
    write_leaderboard(results)
    for name in ("leaderboard.md", "leaderboard.html"):
        assert "one training" in (results / name).read_text()
    rows = {row["method"]: row for row in csv.DictReader((results / "leaderboard.csv").open())}
    assert rows["safedir"]["trainings"] == "1" and rows["none"]["trainings"] == ""
    assert main([*QUICK, f"results={results}", *FAST]) == 0
    assert "one training" in capsys.readouterr().out


def test_a_method_that_trains_nothing_is_no_training(tmp_path):
    assert main([*QUICK, f"results={tmp_path}", "method=sld_max", "limit=2", "evaluators=[hazard_judge]"]) == 0
    write_leaderboard(tmp_path)
    assert "training" not in (tmp_path / "leaderboard.md").read_text().replace("several trainings", "")
