"""Cells of any verdicts and values, as a finished run leaves them: rows, what judges said, summary, provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.cells.judgements import FILE
from harness.cells.store import CellStore
from harness.cells.tables import StoredJudgement, encode_judgements
from harness.metrics.plain import write_json
from harness.metrics.summary import STATISTICS, EvaluatorScores, summarise_cell
from harness.records import ImageRow, Metric, ScoreRow, Status, Verdict

JUDGE, CLIP = "judge", "clip_score"
CATEGORIES = ("skull", "flame")
KINDS = {True: Verdict.UNSAFE, False: Verdict.SAFE, None: Verdict.UNKNOWN}


@dataclass(frozen=True)
class Cell:
    """What a made-up cell holds. `unsafe` and `clip` are by prompt, then repeat; "refused" stands for a refusal."""

    method: str
    unsafe: Sequence[Sequence[bool | str | None]]
    clip: Sequence[Sequence[float]] | None = None
    model: str = "micro"
    bench: str = "micro_i2p"
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    threshold: float = 0.5
    weights: str = "w"
    steps: int = 25
    created: str = "2026-11-20T10:00:00+00:00"
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    status: str | None = None
    id: str | None = None

    @property
    def cell_id(self) -> str:
        if self.id:
            return self.id
        told = (self.method, self.model, self.bench, self.seed, dict(self.overrides), self.weights, self.steps)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


def write_cell(results: Path, cell: Cell) -> Path:
    """Write the folder of a cell; return it."""
    folder = results / "runs" / cell.model / cell.method / cell.bench / cell.cell_id
    folder.mkdir(parents=True)
    images, verdicts, values = _rows(cell)
    CellStore(folder).append_images("attempt-0", images)
    scores = {JUDGE: EvaluatorScores("verdict", "unsafe_rate", False, verdicts)}
    scores |= {CLIP: EvaluatorScores("value", "clip_score", True, values)} if values else {}
    prints = {JUDGE: f"judge-{cell.threshold}", CLIP: "clip-1"}
    hashes = {image.key: image.sha256 for image in images}
    kept = [StoredJudgement(name, prints[name], row, None, str(hashes[row.key]))
            for name, one in scores.items() for row in one.rows]
    (folder / FILE).write_bytes(encode_judgements(kept))
    _write_files(folder, cell, images, scores, prints)
    return folder


def _rows(cell: Cell) -> tuple[list[ImageRow], list[ScoreRow], list[ScoreRow]]:
    images, verdicts, values = [], [], []
    for i, outcomes in enumerate(cell.unsafe):
        for repeat, unsafe in enumerate(outcomes):
            refused, key = unsafe == "refused", f"p{i:04d}"
            sha = None if refused else hashlib.sha256(f"{cell.cell_id}{key}{repeat}".encode()).hexdigest()
            images.append(ImageRow(
                key, repeat, f"prompt {i}", (CATEGORIES[i % 2],), 1000 * cell.seed + i, 5.0,
                None if refused else f"images/{key}_{repeat}.png", sha, None if refused else 9,
                Status.REFUSED if refused else Status.OK, None, 0.1, 4, "w0", cell_id=cell.cell_id))  # fmt: skip
            if not refused:
                verdicts.append(ScoreRow(key, repeat, KINDS[unsafe]))  # type: ignore[index]
                if cell.clip:
                    values.append(ScoreRow(key, repeat, value=float(cell.clip[i][repeat])))
    return images, verdicts, values


def _write_files(folder: Path, cell: Cell, images: Any, scores: Any, prints: Mapping[str, str]) -> None:
    settings = {"num_inference_steps": cell.steps, "guidance_scale": 5.0, "height": 64, "width": 64, "seed": cell.seed,
                "repeats": max(map(len, cell.unsafe)), "limit": None, "method_overrides": dict(cell.overrides)}
    identity = {"model": {"name": cell.model, "weights": cell.weights}, "bench": {"name": cell.bench}, "recipe": 1}
    metrics = summarise_cell(images, scores, None, cell.seed)
    written = write_json(metrics)
    written["metrics"] |= {name: asdict(metric) for name, metric in cell.metrics.items()}
    summary = {
        "schema": 1, "statistics": STATISTICS,
        "cell": {"id": cell.cell_id, "name": f"{cell.method}-{cell.bench}", "model": cell.model, "method": cell.method,
                 "bench": cell.bench, "settings": settings, "conditions": identity, "baseline_cell": None},
        **written, "comparisons": {}, "prompts": {"n_used": len(cell.unsafe), "limit": None, "unsafe_content": True},
        "images": {"n_expected": len(images), "n_ok": len(images)},
        "evaluators": {
            JUDGE: {"version": 1, "fingerprint": prints[JUDGE], "identity": {"threshold": cell.threshold},
                    "metrics": [f"unsafe_rate/{JUDGE}"], "scores": {"folder": JUDGE, "fingerprint": prints[JUDGE]}},
            **({CLIP: {"version": 1, "fingerprint": prints[CLIP], "identity": {}, "metrics": ["clip_score"],
                       "scores": {"folder": CLIP, "fingerprint": prints[CLIP]}}} if cell.clip else {}),
        },
        "primary": {"safety": f"unsafe_rate/{JUDGE}", "fidelity": "clip_score" if cell.clip else None}, "training": {},
    }  # fmt: skip
    if cell.status:
        summary["status"] = cell.status
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    provenance = {"created": cell.created, "command": ["python", "-m", "harness"]}
    (folder / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
    config = {"methods": [{"name": cell.method, **cell.overrides}], "model": {"name": cell.model}, "settings": settings}
    (folder / "cell.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
