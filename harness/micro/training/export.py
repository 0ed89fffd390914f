"""Write the trained parts as a diffusers pipeline folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import diffusers
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel

from harness.lib.hashing import file_hash
from harness.micro.bpe import write_tokenizer
from harness.micro.models import make_scheduler
from harness.micro.training.common import Workspace, save_half

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": diffusers.__version__,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export_text_encoder(workspace: Workspace) -> None:
    """Write micro-CLIP's text tower and tokenizer to the pipeline folder."""
    folder = workspace.weights / "pipeline"
    write_tokenizer(folder / "tokenizer")
    clip = CLIPModel.from_pretrained(workspace.weights / "clip", dtype=torch.float32)
    encoder = CLIPTextModel(clip.config.text_config)
    tower = {k: v for k, v in clip.state_dict().items() if k.startswith("text_model.")}
    if "text_model.final_layer_norm.weight" not in encoder.state_dict():
        tower = {k.removeprefix("text_model."): v for k, v in tower.items()}
    encoder.load_state_dict(tower)
    save_text_encoder(encoder, folder / "text_encoder")


def save_text_encoder(encoder: CLIPTextModel, folder: Path) -> None:
    """Write a text encoder in fp16."""
    encoder.config.dtype = torch.float16
    encoder.config.architectures = ["CLIPTextModel"]
    encoder.config.save_pretrained(folder)
    save_half(folder / "model.safetensors", dict(encoder.state_dict()))


def export_unet(unet: UNet2DConditionModel, prediction_type: str, parts: Mapping[str, Path], folder: Path) -> None:
    """Write a complete pipeline folder around the U-Net; `parts` says where its other parts are."""
    for part, source in parts.items():
        if source != folder / part:
            shutil.copytree(source, folder / part, dirs_exist_ok=True)
    make_scheduler(prediction_type).save_pretrained(folder / "scheduler")
    unet.save_config(folder / "unet")
    save_half(folder / "unet" / "diffusion_pytorch_model.safetensors", dict(unet.state_dict()))
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def write_checksums(weights: Path) -> None:
    """Write SHA256SUMS of all files of a weights folder, in the format of sha256sum."""
    files = sorted(p for p in weights.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{file_hash(p)}  {p.relative_to(weights).as_posix()}" for p in files]
    (weights / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def install(source: Path, target: Path) -> None:
    """Copy finished weights over a weights folder and list their checksums."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    write_checksums(target)


def weight_bytes(weights: Path) -> int:
    """Sum the sizes of a folder's safetensors files."""
    return sum(p.stat().st_size for p in weights.rglob("*.safetensors"))
