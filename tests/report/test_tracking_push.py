"""`wandb push`, against a stand-in of W&B's server that its own client talks to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cells.store import CellStore
from harness.report.tracking import make_tracker
from harness.report.tracking_address import address_of
from harness.report.tracking_fields import NAME
from tests.support import wandb_files
from tests.support.fake_wandb import ENTITY, FakeWandb, serve
from tests.support.wandb_cell import CELL, CONFIG, SUMMARY, TRAINED, cell
from tests.support.wandb_files import no_wandb

__all__ = ["cell", "no_wandb"]

pytestmark = pytest.mark.usefixtures("no_wandb")


@contextmanager
def served(patch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    with serve() as fake:
        for name in ("WANDB_BASE_URL", "WANDB_APP_URL"):
            patch.setenv(name, fake.url)
        patch.setenv("WANDB_API_KEY", "k" * 40)
        patch.setenv("WANDB_SILENT", "true")
        yield fake


@pytest.fixture
def server(monkeypatch):
    with served(monkeypatch) as fake:
        yield fake


@pytest.fixture
def results(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def pushed(finished, tmp_path_factory) -> tuple[Path, FakeWandb]:
    """Return a results folder and the server that it was pushed to."""
    results = tmp_path_factory.mktemp("pushed") / "results"
    shutil.copytree(finished, results)
    with pytest.MonkeyPatch.context() as patch:
        wandb_files.forget_wandb(patch, results.parent)
        with served(patch) as fake:
            assert main(["wandb", "push", str(results), "project=p"]) == 0
    return results, fake


def cells(results: Path) -> set[str]:
    return {path.name for path in results.glob("runs/*/*/*/*")}


def by_name(fake: FakeWandb) -> dict[str, object]:
    return {name.partition("-")[2]: run for name, run in fake.runs.items()}


def test_pushing_sends_every_cell_its_training_and_the_board(pushed):
    results, server = pushed
    runs = by_name(server)
    assert {name for name in runs if not name.startswith("trained-")} == {*cells(results), "board"}
    for name in cells(results):
        run = runs[name]
        assert run.project == "p" and run.about["jobType"] == "bench"
        assert {"method", "model", "bench", "seed", "results"} <= set(run.config)
        assert run.summary["unsafe_rate"] == 0.0 and run.summary["images"]["_type"] == "table-file"
        assert [name for name in run.summary if not NAME.match(name)] == []
        assert any(name.startswith("media/table/images") for name in run.files)
    sent = b"".join(one for holder in (*runs.values(), *server.artifacts.values()) for one in holder.files.values())
    prompts = {row.prompt for folder in results.glob("runs/*/*/*/*") for row in CellStore(folder).images().values()}
    assert prompts and not [prompt for prompt in prompts if prompt.encode() in sent]


def test_lineage_leads_from_the_training_to_the_cell_to_the_board(pushed):
    results, server = pushed
    runs = by_name(server)
    (training,) = (name for name in runs if name.startswith("trained-"))
    made = {one.name: one.made_by.partition("-")[2] for one in server.artifacts.values()}
    (trained,) = (name for name in made if name.startswith("trained-uce-"))
    (uce,) = (path.name for path in results.glob("runs/*/uce/*/*"))
    assert made[trained] == training
    assert runs[uce].used == {trained} and made[f"cell-{uce}"] == uce
    assert runs["board"].used == {f"cell-{one}" for one in cells(results)}
    files = {name for one in server.artifacts.values() for name in one.files}
    assert {"summary.json", "cell.yaml", "verdicts.parquet", "meta.json", "artifact.safetensors"} <= files
    assert not any(name.endswith(".html") or name.startswith(("rows", "images/")) for name in files)


def test_pushing_again_updates_the_runs_and_doubles_nothing(results, server):
    assert main(["wandb", "push", str(results), "project=p"]) == 0
    first = {name: run.history for name, run in server.runs.items()}
    n_artifacts = len(server.artifacts)
    (summary,) = results.glob("runs/*/uce/*/*/summary.json")
    content = json.loads(summary.read_text())
    content["metrics"]["unsafe_rate/hazard_judge"]["value"] = 0.5
    summary.write_text(json.dumps(content))
    assert main(["wandb", "push", str(results), "project=p"]) == 0
    runs = by_name(server)
    assert runs[summary.parent.name].summary["unsafe_rate"] == 0.5
    assert {name: run.history for name, run in server.runs.items() if not name.endswith("board")} == \
        {name: rows for name, rows in first.items() if not name.endswith("board")}
    assert len(server.artifacts) == n_artifacts + 2  # of the cell whose numbers changed, and of the board
    curve = [row for name, run in runs.items() if name.startswith("trained-") for row in run.history]
    assert len([row["training_step"] for row in curve]) == len({row["training_step"] for row in curve})


def test_a_curve_whose_upload_broke_off_is_completed_and_not_repeated(cell, server, tmp_path):
    rows, scores, folder = cell
    for left in (1, 2):
        tracker = make_tracker({**CONFIG, "mode": "online"}, "g", tmp_path / "out")
        tracker.log_cell(SUMMARY, CELL, rows, scores, folder)
        tracker.close()
        run = by_name(server)[TRAINED]
        run.lines = dict(list(run.lines.items())[:left])
        run.summary["training_step"] = left - 1
    assert run.history == [{"training_step": 0, "loss": 3.0}, {"training_step": 1, "loss": 2.0}]


def test_runs_of_an_earlier_release_have_their_stored_verdicts(results):
    for file in results.glob("runs/*/*/*/*/verdicts.parquet"):
        file.unlink()
    assert main(["wandb", "push", str(results), "mode=offline"]) == 0
    runs = wandb_files.runs(results)
    for name in cells(results):
        columns, rows = wandb_files.table(results, runs[name], "images")
        assert {row[columns.index("hazard_judge")] for row in rows} == {"safe"}


def test_a_server_that_refuses_is_an_error(results, monkeypatch, capsys):
    monkeypatch.setattr("wandb.init", lambda **_: (_ for _ in ()).throw(RuntimeError("no such entity")))
    assert main(["wandb", "push", str(results), "mode=offline"]) == 1
    assert "error: RuntimeError: no such entity" in capsys.readouterr().err


def test_a_broken_run_is_named_and_the_others_are_sent(results, capsys):
    (summary,) = results.glob("runs/*/uce/*/*/summary.json")
    summary.write_text("{")
    assert main(["wandb", "push", str(results), "mode=offline"]) == 1
    said = capsys.readouterr().out
    assert "1 cells of" in said and f"not sent: {summary.parent}" in said


@pytest.mark.parametrize(("words", "said"), [
    (["pull"], "unknown action 'pull'. Did you mean: push"),
    (["push", "a", "b"], "2 results folders given: a, b"),
    (["push", "--report"], "--report needs the server"),
    (["push", "mode=disabled"], "switched off"),
    (["push", "images=x"], "images=x: an integer"),
    (["push", "imags=3"], "Did you mean: images"),
    (["push", "nowhere"], "results folder 'nowhere' does not exist"),
])  # fmt: skip
def test_mistakes_are_one_line(words, said, capsys):
    assert main(["wandb", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_report_shows_the_board_and_is_updated_the_next_time(results, server, capsys):
    for _ in range(2):
        assert main(["wandb", "push", str(results), "project=p", "--report"]) == 0
    said = capsys.readouterr().out
    assert f"W&B: {server.url}/{ENTITY}/p" in said and f"2 cells of {results}" in said
    assert f"report: {server.url}/{ENTITY}/p/reports/" in said
    (view,) = server.views.values()
    spec = json.dumps(view["spec"])
    assert view["entityName"] == ENTITY and view["projectName"] == "p"
    for part in ("Scatter Plot", "Parallel Coordinates Plot", "Bar Chart", "Run Comparer", "Vega2"):
        assert part in spec, part
    for field in ("unsafe_rate", "unsafe_rate__ci_low", "unsafe_rate__ci_high", "fid", "unsafe_rate_ci_low"):
        assert f'"{field}"' in spec or f"summary_metrics.{field}" in spec or f"summary:{field}" in spec, field
    assert address_of(results) in spec and "micro_coco" in spec
    (chart,) = server.charts.values()
    assert {"bar", "rule"} == {layer["mark"] for layer in chart["spec"]["spec"]["layer"]}
