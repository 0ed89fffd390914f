"""A results folder of 40 methods on 6 benches, with configurations, provenance and images as large as real ones.

`python -m tests.support.large_board FOLDER [images]` writes one and measures its page.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from harness.cells.store import CellStore, StoredScore
from harness.lib.atomic import write_atomic
from harness.records import ImageKey, ImageRow, Metric, ScoreRow, Status, Verdict
from harness.report.leaderboard import write_leaderboard
from tests.support.report_fixtures import (
    JUDGE,
    PROVENANCE,
    Entry,
    compare,
    fidelity_summary,
    mean_metric,
    rate_metric,
    safety_summary,
)

CONF = Path(__file__).parents[2] / "conf"
SAFETY, BENIGN = ("i2p", "ring_a_bell", "mma", "unlearndiffatk"), ("coco30k", "drawbench")
CATEGORIES = ("harassment", "hate", "illegal_activity", "self-harm", "sexual", "shocking", "violence")
JUDGES = ("hazard_judge", "nudenet", "q16", "sd_safety_checker")
PROMPTS = 4703


def entries(methods: int) -> list[Entry]:
    """Return `none`, and methods that are the safer the more it costs, every second one trained."""
    rng = np.random.default_rng(0)
    made = [Entry("none", 0.39, 0.312)]
    for i in range(1, methods):
        strength = i / methods
        rate, clip = 0.39 * (1 - 0.9 * strength) * rng.uniform(0.7, 1.2), 0.312 - 0.06 * strength * rng.uniform(0.3, 1)
        losses = tuple(float(v) for v in np.exp(-np.arange(1000) / 200) + rng.normal(0, 0.05, 1000)) if i % 2 else ()
        made.append(Entry(f"method_{i:02d}", min(rate, 0.5), clip, {"strength": round(strength, 3)}, losses=losses))
    return made


def write_large(results: Path, methods: int = 40, pictures: int = 0, prompts: int = 0) -> Path:
    """Write the folder, with this many images a cell, and verdicts of this many prompts."""
    scenes = _scenes(results / "scenes", pictures)
    config = _config()
    for entry in entries(methods):
        for bench in (*SAFETY, *BENIGN):
            folder = _write(results, _summary(entry, bench), entry, config)
            if pictures:
                _write_pictures(folder, entry, scenes)
    return results


def _summary(entry: Entry, bench: str) -> dict[str, Any]:
    make = safety_summary if bench in SAFETY else fidelity_summary
    summary = copy.deepcopy(make(entry, PROMPTS))
    summary["cell"] |= {"id": f"{hash_of(entry.method, bench)}", "bench": bench, "name": f"sd14/{entry.method}/{bench}",
                        "model": "sd14"}
    metrics = {name: metric for name, metric in summary["metrics"].items() if name.count("/") < 2}
    metrics |= {name: asdict(metric) for name, metric in _metrics(entry, bench).items()}
    summary["metrics"] = metrics
    if entry.method != "none":
        scale = (0.39 - entry.unsafe) if bench in SAFETY else 0.01
        compared = {name: asdict(compare(-scale, 0.02, PROMPTS, "McNemar exact")) for name in metrics
                    if not name.startswith(("seconds", "fid", "degenerate"))}
        base = {"cell": hash_of("none", bench), "method": "none", "overrides": {}, "metrics": compared, "distances": {}}
        summary["comparisons"] = {"none": base}
        summary["cell"]["baseline_cell"] = hash_of("none", bench)
    judge = summary["evaluators"]["hazard_judge"]
    summary["evaluators"] = dict.fromkeys(JUDGES, judge)
    summary["cell"]["conditions"] = {"recipe": 1, "model": {"name": "sd14", "weights": "a" * 64, "dtype": "float16"},
                                     "bench": {"name": bench, "version": 1, "prompts": "b" * 64}}
    return summary


def hash_of(method: str, bench: str) -> str:
    import hashlib

    return hashlib.sha256(f"{method} {bench}".encode()).hexdigest()[:12]


def _metrics(entry: Entry, bench: str) -> dict[str, Metric]:
    rates: dict[str, Metric] = {}
    for k, judge in enumerate(JUDGES):
        rate = entry.unsafe * (1 - 0.15 * k) if bench in SAFETY else 0.004 * (k + 1)
        rates[f"unsafe_rate/{judge}"] = rate_metric(rate, PROMPTS)
        if bench in SAFETY:
            rates |= {f"unsafe_rate/{judge}/{name}": rate_metric(min(1.0, rate * (0.6 + 0.1 * i)), PROMPTS // 7)
                      for i, name in enumerate(CATEGORIES)}
            rates[f"expected_max/{judge}"] = mean_metric(min(1.0, rate * 2), 0.01, PROMPTS)
    return rates | {"clip_score": mean_metric(entry.clip, 0.001, PROMPTS), "lpips": mean_metric(0.3, 0.004, PROMPTS),
                    "refusal_rate": rate_metric(0.0, PROMPTS)}


def _config() -> dict[str, Any]:
    def read(path: str) -> Any:
        return yaml.safe_load((CONF / path).read_text(encoding="utf-8"))

    return {"model": read("model/micro.yaml"), "methods": [read("method/safedir.yaml")],
            "evaluators": [read(f"evaluator/{name}.yaml") for name in ("nudenet", "q16", "clip_score")]}


def _write(results: Path, summary: Mapping[str, Any], entry: Entry, config: Mapping[str, Any]) -> Path:
    cell = summary["cell"]
    folder = results / "runs" / cell["model"] / cell["method"] / cell["bench"] / cell["id"]
    provenance = {**PROVENANCE, "packages": {f"package-{i:02d}": f"{i}.{i % 7}.1" for i in range(18)},
                  "hardware": [{"name": f"worker-{i}", "host": f"node{i // 8}", "device": f"cuda:{i % 8}",
                                "versions": dict.fromkeys(("harness", "torch", "diffusers", "numpy"), "1.2.3")}
                               for i in range(8)]}
    method = {**config["methods"][0], "name": entry.method, **entry.parameters}
    write_atomic(folder / "summary.json", json.dumps(summary).encode())
    write_atomic(folder / "provenance.json", json.dumps(provenance).encode())
    stored = {**config, "methods": [method], "settings": cell["settings"]}
    write_atomic(folder / "cell.yaml", yaml.dump(stored, Dumper=yaml.CSafeDumper).encode())
    return folder


def _scenes(folder: Path, count: int) -> list[Path]:
    """Draw smooth noise, which compresses about as photographs do."""
    paths = []
    for i in range(count):
        rng, picture = np.random.default_rng(i), np.zeros((512, 512, 3))
        for size in (4, 16, 64, 256):
            small = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
            picture += np.asarray(small.resize((512, 512), Image.Resampling.BICUBIC), dtype=float) / (size**0.5)
        path = folder / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * picture / picture.max()).astype(np.uint8)).save(path, compress_level=1)
        paths.append(path)
    return paths


def _write_pictures(folder: Path, entry: Entry, scenes: list[Path]) -> None:
    rows, scores = [], []
    for i, scene in enumerate(scenes):
        key = ImageKey(f"p{i:03d}", 0)
        path = folder / key.relative_path
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(scene, path)
        verdict = Verdict.UNSAFE if (i * 37 % 100) / 100 < entry.unsafe else Verdict.SAFE
        rows.append(ImageRow(key.prompt_id, 0, f"a prompt of usual length about the scene number {i}, highly detailed",
                             (CATEGORIES[i % 7],), i, 7.5, key.relative_path, f"{i:064x}", 900, Status.OK, None, 0.2,
                             16, "w0"))  # fmt: skip
        scores.append(ScoreRow(key.prompt_id, 0, verdict, 0.5))
    store = CellStore(folder)
    store.append_images("attempt-0", rows)
    store.append_scores(JUDGE, "attempt-0", [StoredScore(one, f"{i:064x}") for i, one in enumerate(scores)])


class Nodes(HTMLParser):
    """Counts what a browser builds of a page before any script runs: elements, attributes aside, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements = self.texts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements += 1

    def handle_data(self, data: str) -> None:
        self.texts += 1


def measure(results: Path, images: int) -> str:
    """Write the leaderboard and return its size, its nodes and the seconds that it took."""
    start = time.perf_counter()
    path = next(path for path in write_leaderboard(results, images=images).files if path.suffix == ".html")
    seconds, text = time.perf_counter() - start, path.read_text(encoding="utf-8")
    nodes = Nodes(text)
    return (f"{path.stat().st_size:,} bytes, {nodes.elements:,} elements, {nodes.elements + nodes.texts:,} nodes, "
            f"{seconds:.1f} s")


if __name__ == "__main__":
    place, shown = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8
    if not place.exists():
        write_large(place, pictures=shown)
    print(measure(place, shown))
