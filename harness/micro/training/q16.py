"""Learn two prompt embeddings on micro-CLIP's picture features, as Q16 (Schramowski et al. 2022) does on CLIP's."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from harness.micro.judge import to_input
from harness.micro.training.common import Fit, Recipe, Workspace, rng_of, save_half, torch_rng_of
from harness.micro.training.judge import augment
from harness.micro.training.pictures import pairs_pictures, pairs_scene

RECIPE = Recipe(steps=1500, batch=256, lr=1e-2)
KEY = 14
PICTURES = 8_000
TEMPERATURE = 100.0


class Prompts(torch.nn.Module):
    """Two learned vectors, used at unit length."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(start)

    def forward(self) -> torch.Tensor:
        """Return the unit vectors, (2, D)."""
        return F.normalize(self.vectors, dim=1)


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
    prompts = Prompts(F.normalize(start, dim=1))

    def loss_at(step: int) -> torch.Tensor:
        index = torch.from_numpy(rng_of(KEY, 1, step).integers(len(labels), size=recipe.batch))
        return F.cross_entropy(TEMPERATURE * features[index] @ prompts().T, labels[index])

    losses = Fit("q16", recipe, prompts, loss_at, workspace.checkpoints / "q16.pt", report_every=300).run()
    save_half(workspace.weights / "q16.safetensors", {"prompts": prompts().detach()})
    return losses
