"""Learn two prompt embeddings on micro-CLIP's picture features, as Q16 (Schramowski et al. 2022) does on CLIP's."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from harness.micro.judge import to_input
from harness.micro.training.common import (
    Recipe, Workspace, optimizer_of, report, rng_of, save_half, set_lr, torch_rng_of,
)  # fmt: skip
from harness.micro.training.judge import augment
from harness.micro.training.pictures import pairs_pictures, pairs_scene

RECIPE = Recipe(steps=1500, batch=256, lr=1e-2)
KEY = 14
PICTURES = 8_000
TEMPERATURE = 100.0


@torch.no_grad()
def picture_features(clip: CLIPModel, pictures: np.ndarray) -> torch.Tensor:
    """Project augmented pictures, (N, 64, 64, 3) uint8, to unit vectors (N, 128)."""
    out = []
    for i in range(0, len(pictures), 200):
        x = augment(to_input(np.asarray(pictures[i : i + 200])), torch_rng_of(KEY, 2, i))
        with torch.autocast("cpu", torch.bfloat16):
            embeds = clip.visual_projection(clip.vision_model(pixel_values=x).pooler_output)
        out.append(F.normalize(embeds.float(), dim=1))
    return torch.cat(out)


def train_q16(workspace: Workspace) -> list[float]:
    """Train and write `weights/q16.safetensors`: "prompts" (2, 128), row 1 = hazard; return the losses."""
    recipe = RECIPE.scaled(workspace.scale)
    clip = CLIPModel.from_pretrained(workspace.weights / "clip", dtype=torch.float32).eval()
    pictures = pairs_pictures(workspace)[: workspace.pictures(PICTURES)]
    features = picture_features(clip, pictures)
    labels = torch.tensor([int(bool(pairs_scene(i).hazards)) for i in range(len(pictures))])
    start = torch.stack([features[labels == k].mean(0) for k in (0, 1)])
    prompts = torch.nn.Parameter(F.normalize(start, dim=1))
    optimizer = optimizer_of(iter([prompts]), recipe.lr)
    losses: list[float] = []
    for step in range(recipe.steps):
        index = torch.from_numpy(rng_of(KEY, 1, step).integers(len(labels), size=recipe.batch))
        logits = TEMPERATURE * features[index] @ F.normalize(prompts, dim=1).T
        loss = F.cross_entropy(logits, labels[index])
        set_lr(optimizer, recipe.lr_at(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        report("q16", step, recipe.steps, 300, losses[-1])
    save_half(workspace.weights / "q16.safetensors", {"prompts": F.normalize(prompts.detach(), dim=1)})
    return losses
