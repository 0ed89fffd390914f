"""W&B mirrors a cell and never fails a run. Read back with W&B's own record definitions."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cells.tracker import NoTracker
from harness.errors import HarnessError
from harness.records import ImageRow, ScoreRow, Status, Verdict
from harness.report.tracking import WandbTracker, blurred, make_tracker, summary_values

CONFIG = {"mode": "offline", "project": "test", "entity": None, "images": 2, "upload_images": False}


def metric(value, **extra):
    return {"value": value, "ci_low": 0.1, "ci_high": 0.6, "n": 2, "n_unknown": 0, "note": None, **extra}


SUMMARY = {
    "status": "complete",
    "cell": {"id": "abc123", "name": "micro/sld_max/micro_i2p"},
    "images": {"n_ok": 2},
    "prompts": {"unsafe_content": True},
    "metrics": {"unsafe_rate/hazard_judge": metric(0.25), "fid": metric(None, note="no reference")},
    "comparisons": {"none": {"metrics": {"unsafe_rate/hazard_judge": {"difference": -0.5, "p_value": 0.001}}}},
    "training": {"safedir": {"losses": [3.0, 2.0]}},
}


@pytest.fixture
def cell(tmp_path):
    rows = []
    for number in range(2):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, 16:] = 255 - number
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(
            ImageRow(
                f"p{number}",
                0,
                "secret prompt",
                ("skull",),
                2**63 + number,
                5.0,
                f"{number}.png",
                "00",
                1,
                Status.OK,
                None,
                0.1,
                2,
                "w",
            )
        )
    scores = {"hazard_judge": [ScoreRow("p0", 0, Verdict.UNSAFE), ScoreRow("p1", 0, Verdict.UNKNOWN, error="broken")]}
    return rows, scores, tmp_path


def log(root: Path, cell, group: str, config: dict) -> None:
    rows, scores, folder = cell
    tracker = make_tracker(CONFIG, group, root)
    tracker.log_cell(SUMMARY, config, rows, scores, folder)
    tracker.close()


def log_records(data: bytes):
    """Yield the records of a W&B transaction log: a LevelDB log of 32 kB blocks after a header of 7 bytes.

    wandb 0.31 reads it in its compiled core only; the record definitions used below are its own.
    """
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def records(root: Path):
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in (root / "wandb").glob("offline-run-*/*.wandb"):
        for data in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found.append(record)
    return found


def test_offline_run_holds_the_cell(cell, tmp_path):
    rows, scores, folder = cell
    log(tmp_path / "out", (rows, scores, folder), "sweep-1", {"identity": {"seed": 7}})
    found = records(tmp_path / "out")
    run = next(record.run for record in found if record.HasField("run"))
    assert (run.run_id, run.run_group, run.job_type, run.display_name) == (
        "abc123",
        "sweep-1",
        "bench",
        "micro/sld_max/micro_i2p",
    )
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["identity"] == {"seed": 7}
    values = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in found
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert values["unsafe_rate/hazard_judge"] == 0.25
    assert values["against none/unsafe_rate/hazard_judge.p_value"] == 0.001
    tables = list((tmp_path / "out" / "wandb").rglob("*.table.json"))
    data = json.loads(tables[0].read_text())
    assert data["data"][0][-1] == "unsafe"
    assert data["data"][1][-1] == "unknown: broken"
    assert "secret" not in tables[0].read_text()


@pytest.mark.parametrize("unsafe_bench", [True, False])
def test_images_of_unsafe_benches_or_not_called_safe_leave_blurred(cell, tmp_path, monkeypatch, unsafe_bench):
    monkeypatch.setitem(SUMMARY, "prompts", {"unsafe_content": unsafe_bench})
    rows, scores, folder = cell
    log(tmp_path / "out", (rows, scores, folder), "g", {})
    sent = sorted((tmp_path / "out" / "wandb").rglob("sample*.png"))
    assert len(sent) == 2
    for path in sent:
        pixels = np.asarray(Image.open(path), dtype=int)
        assert abs(np.diff(pixels[..., 0], axis=1)).max() < 60  # the sharp edge of 255 is gone


def test_blurring_removes_edges():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    assert abs(np.diff(np.asarray(blurred(Image.fromarray(pixels)), dtype=int)[..., 0], axis=1)).max() < 40


def test_unknown_numbers_are_left_out_with_their_reason_kept():
    values = summary_values(SUMMARY)
    assert "fid" not in values
    assert values["fid.note"] == "no reference"


def test_a_broken_tracker_warns_once_and_fails_nothing(cell, tmp_path, caplog, monkeypatch):
    import wandb

    def broken(**_):
        raise RuntimeError("no such entity")

    monkeypatch.setattr(wandb, "init", broken)
    tracker = make_tracker(CONFIG, "g", tmp_path / "out")
    rows, scores, folder = cell
    tracker.log_cell(SUMMARY, {}, rows, scores, folder)
    tracker.log_cell(SUMMARY, {}, rows, scores, folder)
    assert len([r for r in caplog.records if "W&B is disabled" in r.message]) == 1


def test_mode_follows_the_key_and_typos_are_refused(tmp_path, monkeypatch):
    config = {**CONFIG, "mode": None}
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert make_tracker(config, "g", tmp_path).settings.mode == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert make_tracker(config, "g", tmp_path).settings.mode == "online"
    assert isinstance(make_tracker({**CONFIG, "mode": "disabled"}, "g", tmp_path), NoTracker)
    with pytest.raises(HarnessError, match="offline"):
        make_tracker({**CONFIG, "mode": "ofline"}, "g", tmp_path)


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
    monkeypatch.setattr(WandbTracker, "_begin", lambda self, cell_id, name, config: Recorder(begun))
    tracker = make_tracker({**CONFIG, "mode": mode}, "sweep", tmp_path)
    for done in (1, 2, 3, 4):
        for name, total in (("a", 4), ("b", 8)):
            tracker.log_progress({"cell_id": name, "name": name}, done, total, 1.5)
    assert len(begun) == n_runs
    if begun:
        assert [values["progress/done"] for values in begun[0].logged] == [1, 4]  # ten seconds apart, and the last
        assert [run.finished for run in begun] == [1, 0]
    tracker.close()
    assert all(run.finished == 1 for run in begun)
