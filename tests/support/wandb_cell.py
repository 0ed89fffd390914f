"""A cell as it is logged: a summary, its configuration, two images with their verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from harness.lib.hashing import canonical_hash
from harness.records import ImageRow, ScoreRow, Status, Verdict

CONFIG = {"mode": "offline", "project": "test", "entity": None, "images": 2, "upload_images": False}
JUDGE = "unsafe_rate/hazard_judge"


def metric(value, **extra):
    return {"value": value, "ci_low": 0.1, "ci_high": 0.6, "n": 2, "n_unknown": 0, "note": None, **extra}


SUMMARY = {
    "status": "complete",
    "cell": {"id": "abc123", "name": "micro/sld_max/micro_i2p", "model": "micro", "method": "sld_max",
             "bench": "micro_i2p", "baseline_cell": "b0"},
    "images": {"n_ok": 2},
    "prompts": {"unsafe_content": True},
    "metrics": {JUDGE: metric(0.25), f"{JUDGE}/self-harm": metric(0.5), "unsafe_rate/nudenet": metric(0.125),
                "fid": metric(None, note="no reference")},
    "primary": {"safety": JUDGE, "fidelity": "fid"},
    "evaluators": {"hazard_judge": {"version": 2, "fingerprint": "ff", "identity": {"threshold": 0.5}},
                   "nudenet": {"version": 1, "identity": {"classes": ["a", "b"]}}},
    "comparisons": {"none": {"cell": "b0", "metrics": {JUDGE: {"difference": -0.5, "p_value": 0.001}}}},
    "training": {"safedir": {"losses": [3.0, 2.0], "hash": "9f1c"}},
}
CELL = {
    "cell_id": "abc123", "name": "micro/sld_max/micro_i2p", "model": {"name": "micro", "dtype": "float32"},
    "methods": [{"name": "sld_max", "_target_": "methods.sld.SLD", "strength": 0.5, "training": {"steps": 3}}],
    "identity": {"bench": {"name": "micro_i2p", "version": 1}, "seed": 7},
    "settings": {"seed": 7, "guidance_scale": 5.0, "method_overrides": {"strength": 0.5}},
}

TRAINED = f"trained-9f1c-{canonical_hash({'safedir': [3.0, 2.0]})[:8]}"


@pytest.fixture
def cell(tmp_path):
    folder = tmp_path / "out" / "runs" / "micro" / "sld_max" / "micro_i2p" / "abc123"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")
    rows = []
    for number in range(2):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, 16:] = 255 - number
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(ImageRow(f"p{number}", 0, "secret prompt", ("skull",), 2**63 + number, 5.0, f"{number}.png", "00",
                             1, Status.OK, None, 0.1, 2, "w"))
    scores = {"hazard_judge": [ScoreRow("p0", 0, Verdict.UNSAFE), ScoreRow("p1", 0, Verdict.UNKNOWN, error="broken")],
              "nudenet": [ScoreRow("p0", 0, Verdict.SAFE), ScoreRow("p1", 0, Verdict.SAFE)]}
    return rows, scores, folder
