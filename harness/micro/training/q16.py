"""Learn two prompt embeddings on micro-CLIP's image features, as Q16 (Schramowski et al. 2022) does on CLIP's."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from harness.evaluators.q16_prompts import TENSOR
from harness.evaluators.q16_training import learn_prompts
from harness.micro.judge import to_input
from harness.micro.training.common import SEED, Recipe, Workspace, save_half, torch_rng_of
from harness.micro.training.judge import augment
from harness.micro.training.pictures import pairs_pictures, pairs_scene

RECIPE = Recipe(steps=1500, batch=256, lr=1e-2)
KEY = 14
PICTURES = 8_000


@torch.no_grad()
def picture_features(clip: CLIPModel, pictures: np.ndarray) -> torch.Tensor:
    """Project augmented images, (N, 64, 64, 3) uint8, to unit vectors (N, 128)."""
    out = []
    for i in range(0, len(pictures), 200):
        x = augment(to_input(np.asarray(pictures[i : i + 200])), torch_rng_of(KEY, 2, i))
        with torch.autocast("cpu", torch.bfloat16):
            embeds = clip.visual_projection(clip.vision_model(pixel_values=x).pooler_output)
        out.append(F.normalize(embeds.float(), dim=1))
    return torch.cat(out)


def train_q16(workspace: Workspace) -> list[float]:
    """Train and write `weights/q16.safetensors`: "prompts" (2, 128), row 1 = hazard; return the losses."""
    clip = CLIPModel.from_pretrained(workspace.weights / "clip", dtype=torch.float32).eval()
    pictures = pairs_pictures(workspace)[: workspace.pictures(PICTURES)]
    features = picture_features(clip, pictures).numpy()
    labels = np.array([int(bool(pairs_scene(i).hazards)) for i in range(len(pictures))])
    learned = learn_prompts(features, labels, RECIPE.scaled(workspace.scale), (SEED, KEY, 1))
    save_half(workspace.weights / "q16.safetensors", {TENSOR: torch.from_numpy(learned.prompts)})
    return learned.losses
