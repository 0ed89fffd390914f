"""W&B mirrors a cell and never fails a run. Read back with W&B's own record definitions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cells.tracker import NoTracker, TrackerSettings
from harness.cells.tracker_key import has_key
from harness.errors import HarnessError
from harness.records import ScoreRow, Verdict
from harness.report.tracking import WandbTracker, make_tracker, where
from harness.report.tracking_address import address_of
from harness.report.tracking_fields import NAME, config_fields, field, summary_fields
from harness.report.tracking_images import blurred
from tests.support import wandb_files
from tests.support.wandb_cell import CELL, CONFIG, JUDGE, SUMMARY, TRAINED, cell, metric
from tests.support.wandb_files import no_wandb

__all__ = ["cell", "no_wandb"]

pytestmark = pytest.mark.usefixtures("no_wandb")

def log(root: Path, cell, group: str = "sweep-1", summary: dict = SUMMARY, **settings) -> list[str]:
    rows, scores, folder = cell
    said: list[str] = []
    tracker = make_tracker({**CONFIG, **settings}, group, root, said.append)
    tracker.log_cell(summary, CELL, rows, scores, folder)
    tracker.close()
    return said


def test_an_offline_run_holds_the_cell_in_flat_fields(cell, tmp_path):
    log(tmp_path / "out", cell, tags=["paper"])
    runs = wandb_files.runs(tmp_path / "out")
    run = wandb_files.run_of(runs["abc123"])
    assert run.run_id == f"{address_of(tmp_path / 'out')}-abc123"
    assert (run.run_group, run.job_type, run.display_name) == ("sweep-1", "bench", "micro/sld_max/micro_i2p")
    assert list(run.tags) == ["paper"]
    config = wandb_files.config(runs["abc123"])
    expected = {"method": "sld_max", "model": "micro", "bench": "micro_i2p", "seed": 7, "guidance_scale": 5.0,
                "method.strength": 0.5, "method.training.steps": 3, "model.dtype": "float32", "bench.version": 1,
                "judge": "hazard_judge", "judges": ["hazard_judge", "nudenet"], "baseline": "none",
                "judge.hazard_judge.threshold": 0.5, "judge.nudenet.classes": ["a", "b"]}
    assert {key: config.get(key) for key in expected} == expected
    assert not any("_target_" in key for key in config)
    values = wandb_files.summary(runs["abc123"])
    assert values["unsafe_rate"] == values["unsafe_rate__hazard_judge"] == 0.25
    assert values["unsafe_rate__nudenet"] == 0.125
    assert values["unsafe_rate__hazard_judge__self_harm"] == 0.5
    assert values["against__none__unsafe_rate__hazard_judge__p_value"] == 0.001
    assert values["unsafe_rate__against_baseline"] == -0.5
    assert [name for name in values if not NAME.match(name)] == []


def test_the_images_table_has_a_row_an_image_and_columns_for_each_judge(cell, tmp_path):
    log(tmp_path / "out", cell)
    records = wandb_files.runs(tmp_path / "out")["abc123"]
    columns, rows = wandb_files.table(tmp_path / "out", records, "images")
    told = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [one["hazard_judge"] for one in told] == ["unsafe", "unknown: broken"]
    assert [one["nudenet"] for one in told] == ["safe", "safe"]
    assert [one["seed"] for one in told] == [str(2**63), str(2**63 + 1)]
    assert all(one["picture"] for one in told)
    assert "secret" not in str(rows)


@pytest.mark.parametrize(("unsafe_bench", "safe", "asked", "sharp"), [
    (True, True, False, 0), (False, False, False, 0), (False, True, False, 2), (True, False, True, 2),
])  # fmt: skip
def test_pictures_of_unsafe_benches_or_not_called_safe_leave_blurred(cell, tmp_path, unsafe_bench, safe, asked, sharp):
    rows, scores, folder = cell
    if safe:
        scores = {"hazard_judge": [ScoreRow(row.prompt_id, 0, Verdict.SAFE) for row in rows]}
    summary = {**SUMMARY, "prompts": {"unsafe_content": unsafe_bench}}
    log(tmp_path / "out", (rows, scores, folder), summary=summary, upload_images=asked)
    sent = wandb_files.pictures(wandb_files.runs(tmp_path / "out")["abc123"])
    assert len(sent) == 2
    edges = [abs(np.diff(np.asarray(Image.open(path), dtype=int)[..., 0], axis=1)).max() for path in sent]
    assert sum(edge > 200 for edge in edges) == sharp
    assert all(edge > 200 or edge < 60 for edge in edges)


def test_blurring_removes_edges():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    assert abs(np.diff(np.asarray(blurred(Image.fromarray(pixels)), dtype=int)[..., 0], axis=1)).max() < 40


def test_unknown_numbers_are_left_out_with_their_reason_kept():
    values = summary_fields(SUMMARY)
    assert "fid" not in values
    assert values["fid__note"] == "no reference"


@pytest.mark.parametrize(("name", "expected"), [
    ("unsafe_rate/nudenet/self-harm", "unsafe_rate__nudenet__self_harm"), ("5_fold", "_5_fold"),
    ("unsafe_rate/a__b", "unsafe_rate__a_b"), ("clip score, mean", "clip_score_mean"),
])  # fmt: skip
def test_fields_have_names_that_wandb_sorts_by(name, expected):
    assert field(name) == expected and NAME.match(expected)


def test_names_that_become_the_same_stay_two_fields():
    metrics = {"unsafe_rate/a-b": metric(0.1), "unsafe_rate/a b": metric(0.2), "é": metric(0.3), "ü": metric(0.4)}
    values = summary_fields({**SUMMARY, "metrics": metrics, "primary": {}})
    assert {0.1, 0.2, 0.3, 0.4} <= set(values.values())
    assert [name for name in values if not NAME.match(name)] == []


def test_settings_of_methods_that_are_composed_name_their_method():
    cell = {**CELL, "methods": [{"name": "a", "strength": 1}, {"name": "b", "strength": 2}]}
    config = config_fields(cell, {"cell": {}})
    assert (config["method"], config["method.a.strength"], config["method.b.strength"]) == ("a+b", 1, 2)


def test_a_training_has_a_run_of_its_own_and_a_cell_uses_what_came_of_it(cell, tmp_path, monkeypatch):
    trained = tmp_path / "out" / "artifacts" / "safedir" / "9f1c"
    trained.mkdir(parents=True)
    for name in ("artifact.safetensors", "meta.json"):
        (trained / name).write_text("{}")
    monkeypatch.setattr("harness.report.tracking_artifacts.looked_at", lambda folder: ({"key": "9f1c"}, ""))
    rows, scores, folder = cell
    tracker = make_tracker(CONFIG, "g", tmp_path / "out")
    for _ in range(2):  # two cells of one training
        tracker.log_cell(SUMMARY, CELL, rows, scores, folder)
    tracker.close()
    runs = wandb_files.runs(tmp_path / "out")
    assert set(runs) == {"abc123", TRAINED}
    curve = [row for row in wandb_files.history(runs[TRAINED]) if "loss" in row]
    assert curve == [{"training_step": 0, "loss": 3.0}, {"training_step": 1, "loss": 2.0}]
    made = wandb_files.artifacts(runs[TRAINED])["model trained-safedir-9f1c"]
    assert not made.use_after_commit
    of_cell = wandb_files.artifacts(runs["abc123"])
    assert of_cell["model trained-safedir-9f1c"].use_after_commit
    assert of_cell["model trained-safedir-9f1c"].digest == made.digest
    assert not of_cell["cell cell-abc123"].use_after_commit


def test_the_board_is_a_run_that_uses_every_cell(finished, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(finished, results)
    tracker = make_tracker(CONFIG, "g", results)
    tracker.log_board(results)
    tracker.close()
    records = wandb_files.runs(results)["board"]
    used = {name for name, one in wandb_files.artifacts(records).items() if one.use_after_commit}
    assert used == {f"cell cell-{path.name}" for path in results.glob("runs/*/*/*/*")}
    board = next(one for name, one in wandb_files.artifacts(records).items() if name.startswith("leaderboard "))
    assert {entry.path for entry in board.manifest.contents} >= {"leaderboard.csv", "leaderboard.json"}
    columns, rows = wandb_files.table(results, records, "leaderboard")
    assert sorted(row[columns.index("method")] for row in rows) == ["none", "uce"]


def test_repeating_a_command_updates_its_runs(cell, tmp_path):
    log(tmp_path / "out", cell)
    first = set(wandb_files.runs(tmp_path / "out"))
    log(tmp_path / "out", cell, summary={**SUMMARY, "metrics": {JUDGE: metric(0.75)}})
    runs = wandb_files.runs(tmp_path / "out")  # which refuses two runs of one id
    assert set(runs) == first == {"abc123", TRAINED}
    assert wandb_files.summary(runs["abc123"])["unsafe_rate"] == 0.75
    assert len([row for row in wandb_files.history(runs[TRAINED]) if "loss" in row]) == 2


def test_a_curve_that_was_uploaded_is_not_written_again(cell, tmp_path):
    root = tmp_path / "out"
    log(root, cell)
    (folder,) = (root / "wandb").glob(f"offline-run-*-{TRAINED}")
    (folder / "run.wandb.synced").touch()  # as `wandb sync` leaves it
    for _ in range(2):
        log(root, cell)
        assert list((root / "wandb").glob(f"offline-run-*-{TRAINED}")) in ([folder], [])
        shutil.rmtree(folder, ignore_errors=True)


def test_a_results_folder_has_an_address_that_it_keeps_and_shares_with_no_copy(tmp_path):
    one, other, moved = tmp_path / "one", tmp_path / "other", tmp_path / "moved"
    one.mkdir()
    other.mkdir()
    name = address_of(one)
    assert address_of(one) == name != address_of(other)
    shutil.copytree(one, tmp_path / "copy")
    assert address_of(tmp_path / "copy") != name
    one.rename(moved)
    assert address_of(moved) == name


def test_a_folder_without_write_access_is_named_by_its_path(tmp_path, monkeypatch):
    def refuse(path, data):
        raise OSError("read-only")

    monkeypatch.setattr("harness.report.tracking_address.write_atomic", refuse)
    assert address_of(tmp_path) == address_of(tmp_path) != address_of(tmp_path / "x")


def test_the_folder_and_the_command_that_uploads_are_said(cell, tmp_path):
    said = log(tmp_path / "out", cell)
    assert said == [f"W&B: 2 runs, offline: {tmp_path / 'out' / 'wandb'}. To upload them:",
                    f"  wandb sync {tmp_path / 'out' / 'wandb'}/offline-run-*"]


def test_online_runs_are_said_with_their_url():
    url = "https://wandb.ai/lab/project"
    assert where([f"{url}/runs/a-b"], True) == [f"W&B: 1 run, {url}/runs/a-b"]
    assert where([f"{url}/runs/a-b", f"{url}/runs/a-c"], True) == [f"W&B: 2 runs, {url}"]
    assert where([], True) == []


def test_a_broken_tracker_warns_once_and_fails_nothing(cell, tmp_path, caplog, monkeypatch):
    import wandb

    def broken(**_):
        raise RuntimeError("no such entity")

    monkeypatch.setattr(wandb, "init", broken)
    tracker = make_tracker(CONFIG, "g", tmp_path / "out")
    rows, scores, folder = cell
    tracker.log_cell(SUMMARY, {}, rows, scores, folder)
    tracker.log_cell(SUMMARY, {}, rows, scores, folder)
    tracker.log_board(tmp_path / "out")
    assert len([r for r in caplog.records if "W&B is disabled" in r.message]) == 1


def test_mode_follows_the_key_and_typos_are_refused(tmp_path, monkeypatch):
    config = {**CONFIG, "mode": None}
    assert make_tracker(config, "g", tmp_path).settings.mode == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert make_tracker(config, "g", tmp_path).settings.mode == "online"
    assert isinstance(make_tracker({**CONFIG, "mode": "disabled"}, "g", tmp_path), NoTracker)
    with pytest.raises(HarnessError, match="offline"):
        make_tracker({**CONFIG, "mode": "ofline"}, "g", tmp_path)


@pytest.mark.parametrize(("machine", "host", "expected"), [
    ("api.wandb.ai", None, True), ("example.org", None, False), ("wandb.lab:8080", "http://wandb.lab:8080", True),
    ("api.wandb.ai", "http://wandb.lab:8080", False),
])  # fmt: skip
def test_the_key_that_wandb_login_left_counts(tmp_path, monkeypatch, machine, host, expected):
    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password {'k' * 40}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if host:
        (tmp_path / "wandb-config").mkdir()
        (tmp_path / "wandb-config" / "settings").write_text(f"[default]\nbase_url = {host}\n")
    assert has_key() is expected
    assert TrackerSettings().mode == ("online" if expected else "offline")


@pytest.mark.parametrize("text", ["machine", "\x00\xff", ""])
def test_a_netrc_file_that_cannot_be_read_holds_no_key(tmp_path, monkeypatch, text):
    (tmp_path / "netrc").write_text(text)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_key()


def test_variables_of_wandb_count_where_nothing_else_is_set(monkeypatch):
    given = {"WANDB_MODE": "dryrun", "WANDB_PROJECT": "p", "WANDB_ENTITY": "lab", "WANDB_RUN_GROUP": "night",
             "WANDB_TAGS": "a, b"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    one = TrackerSettings()
    assert (one.mode, one.project, one.entity, one.group, one.tags) == ("offline", "p", "lab", "night", ("a", "b"))
    two = TrackerSettings(mode="online", project="q", entity="me", group="g", tags=("c",))
    assert (two.mode, two.project, two.entity, two.group, two.tags) == ("online", "q", "me", "g", ("c",))
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(HarnessError, match=r"unknown WANDB_MODE 'onlin'. Did you mean: online"):
        TrackerSettings()


def test_the_group_that_is_set_joins_the_runs(cell, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "night")
    log(tmp_path / "out", cell, group="sweep-1")
    assert {wandb_files.run_of(one).run_group for one in wandb_files.runs(tmp_path / "out").values()} == {"night"}


class Recorder:
    """Stands in for a W&B run."""

    def __init__(self, begun):
        begun.append(self)
        self.logged, self.finished = [], 0

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished += 1


@pytest.mark.parametrize(("mode", "n_runs"), [("online", 2), ("offline", 0)])
def test_progress_has_one_open_run_a_cell_where_somebody_can_watch(tmp_path, monkeypatch, mode, n_runs):
    begun = []
    monkeypatch.setattr(WandbTracker, "_begin", lambda self, cell_id, name, kind, config: Recorder(begun))
    tracker = make_tracker({**CONFIG, "mode": mode}, "sweep", tmp_path)
    for done in (1, 2, 3, 4):
        for name, total in (("a", 4), ("b", 8)):
            tracker.log_progress({"cell_id": name, "name": name}, done, total, 1.5)
    assert len(begun) == n_runs
    if begun:
        assert [values["progress__done"] for values in begun[0].logged] == [1, 4]  # ten seconds apart, and the last
        assert [run.finished for run in begun] == [1, 0]
    tracker.close()
    assert all(run.finished == 1 for run in begun)
