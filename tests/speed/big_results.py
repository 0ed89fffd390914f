"""A results folder of 40 methods on 6 benches with 30,000 images each: what the viewer is measured on.

    python -m tests.speed.big_results FOLDER [methods] [benches] [images]

Every cell has its rows, verdicts of six evaluators, summary, configuration and provenance. To save minutes and
gigabytes, methods share row files and every eighth method its verdicts, as links; 64 images of each cell exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from harness.cells.tables import SCHEMA_VERSION, image_schema, judgement_schema
from harness.records import Comparison, ImageKey, Metric
from tests.support.report_fixtures import draw, wilson

JUDGES = ("nudenet", "q16", "safety_checker", "nudenet_or_q16", "vlm_judge")
VALUES = ("clip_score",)
CATEGORIES = ("hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal activity")
BENCHES = ("i2p", "mma", "ring_a_bell", "unlearn_sexual", "coco", "winobias")
BENIGN = ("coco", "winobias")
SHARED = 8  # methods after which verdicts repeat
SHARD = 32  # images whose rows are in one file
WORDS = "a painting of the old harbour at night with many boats and a crowd under the lamps"


def write_big(results: Path, methods: int = 40, benches: int = 6, images: int = 30_000) -> Path:
    """Write the whole folder."""
    for bench in BENCHES[:benches]:
        first: dict[int, tuple[Path, dict[str, Metric]]] = {}
        for m in range(methods):
            method = "none" if m == 0 else f"method_{m:02d}"
            cell = hashlib.sha256(f"{method} {bench}".encode()).hexdigest()[:12]
            folder = results / "runs" / "sd14" / method / bench / cell
            folder.mkdir(parents=True)
            if m % SHARED not in first:
                first[m % SHARED] = folder, _content(folder, first.get(0, (None,))[0], m, bench, images)
            else:
                _linked(first[m % SHARED][0], folder)
            _side_files(folder, method, bench, cell, images, first[m % SHARED][1], m)
    return results


def _content(folder: Path, rows_of: Path | None, m: int, bench: str, n: int) -> dict[str, Metric]:
    rng = np.random.default_rng([m, len(bench)])
    hashes = [hashlib.sha256(f"{bench} {i}".encode()).hexdigest() for i in range(n)]
    ids = [f"{bench}_{i:05d}" for i in range(n)]
    if rows_of is None:
        (folder / "rows").mkdir()
        for start in range(0, n, SHARD):
            _rows(folder, ids[start : start + SHARD], hashes[start : start + SHARD], start)
        for i in range(min(n, 64)):
            draw(folder / ImageKey(ids[i], 0).relative_path, i, i % 3 == 0)
    else:
        _linked(rows_of, folder, "rows/*.parquet", "images/*/*.png")
    rate = 0.01 if bench in BENIGN else 0.02 + 0.6 * float(np.exp(-m / 5))
    return _verdicts(folder, rng, ids, hashes, rate)


def _linked(source: Path, folder: Path, *patterns: str) -> None:
    for pattern in patterns or ("rows/*.parquet", "images/*/*.png", "verdicts.parquet"):
        for file in source.glob(pattern):
            place = folder / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)


def _rows(folder: Path, ids: list[str], hashes: list[str], start: int) -> None:
    k = len(ids)
    columns = {
        "prompt_id": ids, "repeat": [0] * k, "prompt": [f"{WORDS}, {name}" for name in ids],
        "category": [[CATEGORIES[(start + i) % 7]] for i in range(k)], "seed": list(range(start, start + k)),
        "guidance_scale": [7.5] * k, "file": [ImageKey(name, 0).relative_path for name in ids], "sha256": hashes,
        "bytes": [300_000] * k, "status": ["ok"] * k, "error": [None] * k, "seconds": [1.2] * k, "batch_size": [8] * k,
        "worker": ["w"] * k, "flags": [["truncated"] if i == 3 else [] for i in range(k)], "cell_id": [None] * k,
        "artifact": [None] * k, "host": ["node"] * k, "hardware": ["gpu"] * k, "versions": ["torch 2.9"] * k,
    }  # fmt: skip
    schema = image_schema().with_metadata({"schema_version": str(SCHEMA_VERSION)})
    pq.write_table(pa.table(columns, schema=schema), folder / "rows" / f"shard-{start:06d}.parquet")


def _verdicts(folder: Path, rng: np.random.Generator, ids: list[str], hashes: list[str], rate: float
              ) -> dict[str, Metric]:  # fmt: skip
    tables, metrics, n = [], {}, len(ids)
    schema = judgement_schema().with_metadata({"schema_version": str(SCHEMA_VERSION)})
    latent = rng.random(n)
    for j, name in enumerate((*JUDGES, *VALUES)):
        scores = np.clip(latent + 0.15 * rng.standard_normal(n), 0, 1)
        unsafe = scores > 1 - rate
        is_judge = name in JUDGES
        verdicts = np.where(unsafe, "unsafe", "safe").tolist() if is_judge else [None] * n
        box = [{"label": "FACE_FEMALE", "score": 0.6, "left": 0.1, "top": 0.1, "width": 0.4, "height": 0.3}]
        boxes = [box if j == 0 and bad else [] for bad in unsafe]
        columns = {"evaluator": [name] * n, "fingerprint": [f"fingerprint{j}"] * n, "prompt_id": ids,
                   "verdict": verdicts, "sha256": hashes, "repeat": [0] * n,
                   "value": [None] * n if is_judge else scores.tolist(), "score": scores.tolist(),
                   "label": [None] * n, "error": [None] * n, "boxes": boxes}  # fmt: skip
        tables.append(pa.table(columns, schema=schema))
        if is_judge:
            share = float(unsafe.mean())
            metrics[f"unsafe_rate/{name}"] = Metric(share, *wilson(share, n), n, 0, False, ci_method="Wilson")
            for category in CATEGORIES:
                metrics[f"unsafe_rate/{name}/{category}"] = Metric(share, *wilson(share, n // 7), n // 7, 0, False)
        else:
            mean = float(scores.mean())
            metrics[name] = Metric(mean, mean - 0.002, mean + 0.002, n, 0, True, ci_method="cluster bootstrap")
    pq.write_table(pa.concat_tables(tables), folder / "verdicts.parquet")
    metrics["fid"] = Metric(20 + 10 * float(rng.random()), None, None, n, 0, False)
    metrics["seconds_per_image"] = Metric(1.2, 1.19, 1.21, n, 0, False)
    return metrics


def _side_files(folder: Path, method: str, bench: str, cell: str, n: int, metrics: dict[str, Metric], m: int) -> None:
    compared = {name: asdict(Comparison("none", -0.1, -0.12, -0.08, 1e-9, n, "McNemar exact, Newcombe interval", 0.6))
                for name in metrics if m and "fid" not in name}  # fmt: skip
    against = {"none": {"cell": None, "method": "none", "overrides": {}, "metrics": compared, "distances": {}}}
    settings = {"num_inference_steps": 50, "guidance_scale": 7.5, "height": 512, "width": 512, "seed": 0, "repeats": 1}
    summary = {
        "schema": 1, "statistics": 5, "status": "complete", "incomplete": [],
        "cell": {"id": cell, "name": f"{method}-{bench}", "model": "sd14", "method": method, "bench": bench,
                 "settings": settings, "baseline_cell": None},
        "metrics": {name: asdict(metric) for name, metric in metrics.items()}, "comparisons": against if m else {},
        "prompts": {"n_total": n, "n_used": n, "n_excluded": 0, "excluded": {}, "unsafe_content": bench not in BENIGN},
        "images": {"n_expected": n, "n_ok": n, "n_refused": 0, "n_error": 0, "n_truncated": n // SHARD},
        "evaluators": {name: {"version": 1, "status": "ok", "fingerprint": f"fingerprint{j}", "note": None,
                              "identity": {"threshold": 0.5}, "metrics": []}
                       for j, name in enumerate((*JUDGES, *VALUES))},
        "primary": {"safety": "unsafe_rate/nudenet", "fidelity": "clip_score"},
        "training": {method: {"seconds": 900, "hash": cell, "losses": [1 / (i + 1) for i in range(1000)]}} if m else {},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    packages = {f"package-{i}": f"{i}.0" for i in range(40)}
    (folder / "provenance.json").write_text(json.dumps({
        "created": "2026-11-20T10:00:00+00:00", "command": ["python", "-m", "harness", f"method={method}"],
        "user": "ada", "host": "node", "packages": packages, "git": {"revision": "3620da3c1d", "dirty": False},
        "hardware": [{"gpu": "H100", "node": i} for i in range(8)]}))  # fmt: skip
    config = {"cell_id": cell, "methods": [{"name": method, "_target_": "methods.x.X", "strength": m}],
              "model": {"name": "sd14"}, "settings": settings,
              "bench": {f"setting_{i}": [i] * 5 for i in range(40)}, "evaluators": [
                  {"name": name, "_target_": "harness.x.X", **{f"option_{i}": i for i in range(12)}}
                  for name in (*JUDGES, *VALUES)]}  # fmt: skip
    (folder / "cell.yaml").write_text(yaml.safe_dump(config))


if __name__ == "__main__":
    write_big(Path(sys.argv[1]), *map(int, sys.argv[2:]))
