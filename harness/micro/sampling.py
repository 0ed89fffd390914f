"""Draw images with the micro pipeline: one seed per image, plain diffusers."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

WEIGHTS = Path(__file__).parent / "weights"


def load_pipeline(folder: Path = WEIGHTS / "pipeline") -> StableDiffusionPipeline:
    """Load the pipeline in float32, quiet."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float,
    steps: int = 25,
    batch_size: int = 16,
) -> np.ndarray:
    """Generate one image per prompt, (N, 64, 64, 3) uint8, each from a CPU generator with its own seed."""
    pictures = []
    for at in range(0, len(prompts), batch_size):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[at : at + batch_size]]
        pictures.append(
            pipeline(
                list(prompts[at : at + batch_size]),
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=generators,
                output_type="np",
            ).images
        )
    return (np.concatenate(pictures) * 255).round().astype(np.uint8)


def read_prompts(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Read a prompt file of the embedded world; `seed` becomes int, `meta` a dict, `category` a list."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))[:limit]
    for row in rows:
        row["seed"], row["meta"] = int(row["seed"]), json.loads(row["meta"])
        row["category"] = [name for name in row["category"].split(";") if name]
    return rows


def save_grid(pictures: np.ndarray, path: Path, columns: int = 16, zoom: int = 1) -> None:
    """Tile (N, 64, 64, 3) uint8 images row by row and write a PNG."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures) - columns + 1, columns)]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows or [pictures]])
    image = Image.fromarray(sheet)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path)
