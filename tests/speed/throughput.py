"""Images per second of the harness over those of a bare diffusers loop, in one process, taken in turns.

python -m tests.speed.throughput --images 512 --batch 16 --threads 2
The bare loop calls the pipeline on the same prompts and seeds and throws the images away; the harness also encodes,
hashes and stores them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.pool import make_pool
from harness.records import CellSpec, ImageItem
from tests.speed.common import make_slice, plan_images


def bare_seconds(pipe: Any, cell: CellSpec, items: Sequence[ImageItem]) -> float:
    """Make the items with nothing but diffusers; return seconds."""
    import torch

    settings = cell.settings
    begun = time.perf_counter()
    for start in range(0, len(items), settings.batch_size):
        batch = items[start : start + settings.batch_size]
        pipe(
            prompt=[item.prompt for item in batch],
            generator=[torch.Generator("cpu").manual_seed(item.seed) for item in batch],
            num_inference_steps=settings.num_inference_steps, height=settings.height, width=settings.width,
            guidance_scale=batch[0].guidance_scale,
        )  # fmt: skip
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()

    import torch

    from harness.models.loading import load_model

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        words = ("method=none", "bench=micro_coco", f"batch_size={options.batch}")
        plan = plan_images(words, Path(folder))
        cell, items = plan.cell.spec, list(plan.missing or ())
        pipe = load_model(cell.model, "cpu").pipe
        pipe.set_progress_bar_config(disable=True)
        per_turn = options.images // options.turns // options.batch * options.batch
        bare = harness = 0.0
        with make_pool({"name": "inline", "threads": options.threads}) as pool:
            make_slice(pool, plan, len(items) - options.batch, options.batch)  # loads the model
            bare_seconds(pipe, cell, items[: options.batch])
            for turn in range(options.turns):
                start = turn * per_turn
                bare += bare_seconds(pipe, cell, items[start : start + per_turn])
                harness += make_slice(pool, plan, start, per_turn)
        made = per_turn * options.turns
    print(f"{made} images, batch {options.batch}, {cell.settings.num_inference_steps} steps, {options.threads} threads")
    print(f"bare diffusers  {made / bare:7.2f} images/s")
    print(f"harness         {made / harness:7.2f} images/s")
    print(f"ratio           {bare / harness:7.3f}   (target 0.9)")


if __name__ == "__main__":
    main()
