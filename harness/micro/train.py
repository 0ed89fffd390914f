"""Train the embedded world's networks from nothing: `python -m harness.micro.train`.

The same command resumes an interrupted run and skips parts whose recipe and inputs have not changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from harness.lib.hashing import file_hash
from harness.micro.training.common import Workspace, set_up_log

log = logging.getLogger("harness.micro.train")
PARTS = ("clip", "vae", "judge", "q16", "checker", "text_v", "unet", "unet_v")
# Parts of a lane run one after another; lanes of a stage side by side, on one core each.
STAGES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("vae",), ("clip", "judge", "q16", "checker", "text_v")),
    (("unet",),),
    (("unet_v",),),
)
INPUTS: dict[str, tuple[str, ...]] = {
    "q16": ("clip/model.safetensors",),
    "checker": ("clip/model.safetensors",),
    "text_v": ("clip/model.safetensors",),
    "unet": ("pipeline/text_encoder/model.safetensors", "pipeline/vae/diffusion_pytorch_model.safetensors"),
    "unet_v": ("pipeline_v/text_encoder/model.safetensors", "pipeline/vae/diffusion_pytorch_model.safetensors",
               "pipeline/unet/diffusion_pytorch_model.safetensors"),
}  # fmt: skip
INSTALLED = Path(__file__).parent / "weights"


def part_key(part: str, workspace: Workspace) -> str:
    """Hash what a part's weights depend on: its recipe, the scale and the weights that it is trained on."""
    from harness.micro.training import checker, clip, judge, q16, text_v, unet, vae

    recipes = {
        "clip": (clip.RECIPE,),
        "vae": (vae.BOTH, vae.DECODER),
        "judge": (judge.RECIPE,),
        "q16": (q16.RECIPE,),
        "checker": (checker.RECIPE, checker.SPECIAL, checker.CONCEPTS),
        "text_v": (text_v.RECIPE,),
        "unet": (unet.RECIPE, unet.FOCUS),
        "unet_v": (unet.FINETUNE,),
    }
    inputs = [file_hash(workspace.weights / name) for name in INPUTS.get(part, ())]
    return hashlib.sha256(repr((recipes[part], workspace.scale, inputs)).encode()).hexdigest()


def train_part(part: str, workspace: Workspace) -> list[float]:
    """Train one part in this process unless it is done; return the losses."""
    import torch

    from harness.micro.training import checker, clip, export, judge, q16, text_v, unet, vae

    torch.set_num_threads(1)
    recipes: dict[str, Callable[[Workspace], list[float]]] = {
        "clip": clip.train_clip,
        "vae": vae.train_vae,
        "judge": judge.train_judge,
        "q16": q16.train_q16,
        "checker": checker.train_checker,
        "text_v": text_v.train_text_v,
        "unet": unet.train_unet,
        "unet_v": partial(unet.train_unet, kind=unet.V),
    }
    train = recipes[part]
    key, marker, unfinished = part_key(part, workspace), *_markers(part, workspace)
    if _reads(marker, key):
        log.info("%s: done before", part)
        return []
    if not _reads(unfinished, key):
        _forget(part, workspace)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_text(key)
    began = time.monotonic()
    losses = train(workspace)
    if part == "clip":
        export.export_text_encoder(workspace)
    marker.write_text(key)
    log.info("%s: finished in %.0f s", part, time.monotonic() - began)
    return losses


def _markers(part: str, workspace: Workspace) -> tuple[Path, Path]:
    return workspace.checkpoints / f"{part}.done", workspace.checkpoints / f"{part}.begun"


def _reads(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def _forget(part: str, workspace: Workspace) -> None:
    """Remove what an earlier recipe left."""
    for path in (workspace.checkpoints / f"{part}.pt", workspace.checkpoints / f"{part}.done"):
        path.unlink(missing_ok=True)
    if part == "unet":
        for path in workspace.cache.glob("latents_*.pt"):
            path.unlink()


def _run_lane(parts: list[str], workspace: Workspace) -> None:
    """Train parts one after another, each in a fresh single-threaded process."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="2000000000",
                       MALLOC_TRIM_THRESHOLD_="8000000000")  # fmt: skip
    for part in parts:
        command = [sys.executable, "-m", "harness.micro.train", "--out", str(workspace.root),
                   "--steps-scale", str(workspace.scale), "--here", part]  # fmt: skip
        subprocess.run(command, env=environment, check=True)


def run(workspace: Workspace, parts: tuple[str, ...]) -> None:
    """Train the parts, stage by stage."""
    for stage in STAGES:
        lanes = [[part for part in lane if part in parts] for lane in stage]
        with ThreadPoolExecutor(len(lanes)) as pool:
            for future in [pool.submit(_run_lane, lane, workspace) for lane in lanes]:
                future.result()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m harness.micro.train", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/micro"), help="work folder: checkpoints, log, weights")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts to train, comma-separated")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiply every part's number of steps")
    parser.add_argument("--install", action="store_true", help="copy the finished weights into the package")
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    arguments = _arguments(argv)
    workspace = Workspace(arguments.out.resolve(), arguments.steps_scale)
    parts = tuple(arguments.parts.split(","))
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        print(f"unknown part {unknown[0]!r}; parts are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    set_up_log(workspace)
    if arguments.here:
        train_part(arguments.here, workspace)
        return 0
    began = time.monotonic()
    run(workspace, parts)
    from harness.micro.training.export import install, weight_bytes, write_checksums

    write_checksums(workspace.weights)
    summary = {"minutes": round((time.monotonic() - began) / 60, 1), "megabytes": weight_bytes(workspace.weights) / 1e6}
    log.info("all done: %s", json.dumps(summary))
    if arguments.install:
        install(workspace.weights, INSTALLED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
