"""The files of a diffusers pipeline as a loader's checks read them: whole by their headers, made without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

_MODEL = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
CLASSES = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def stub_files(family: str = "sd1") -> dict[str, bytes]:
    """Return a pipeline's files by name, each part with one small tensor of its own."""
    both = ("", "_2") if family == "sdxl" else ("",)
    texts, tokenizers = ([f"{part}{end}" for end in both] for part in ("text_encoder", "tokenizer"))
    index: dict[str, Any] = {"_class_name": CLASSES[family], "safety_checker": [None, None]}
    index |= {name: ["diffusers", "any"] for name in ("scheduler", "unet", "vae", *texts, *tokenizers)}
    files = {"model_index.json": _json(index), "scheduler/scheduler_config.json": _json({})}
    files |= {f"{name}/vocab.json": _json({"a": 0}) for name in tokenizers}
    for part in ("unet", "vae", *texts):
        files[f"{part}/config.json"] = _json({"part": part})
        weights = {"weight": np.full((40, 8), len(files), np.float32)}
        files[f"{part}/{_MODEL.get(part, 'model')}.safetensors"] = save(weights)
    return files


def write_stub(folder: Path, family: str = "sd1") -> Path:
    """Write the files into a folder; return it."""
    for name, data in stub_files(family).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
