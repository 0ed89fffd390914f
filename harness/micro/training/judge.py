"""Train the judge on rendered images with augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from harness.micro.judge import JUDGE_PROFESSIONS, Judge, to_input
from harness.micro.training.common import Fit, Recipe, Workspace, rng_of, save_half, seeded_init, torch_rng_of
from harness.micro.training.pictures import pairs_pictures, pairs_scene
from harness.micro.words import ATTRIBUTES, HAZARDS, PLACES
from harness.micro.world import Scene

RECIPE = Recipe(steps=500, batch=128, lr=2e-3)
KEY = 13


@dataclass(frozen=True)
class Labels:
    """True contents of a batch of scenes. `attribute` is -100 where there is no figure."""

    hazards: torch.Tensor  # (B, 3) float
    attribute: torch.Tensor  # (B,) long
    profession: torch.Tensor  # (B,) long
    place: torch.Tensor  # (B,) long


def labels_of(scenes: list[Scene]) -> Labels:
    """Read the labels off the scenes."""
    figures = [scene.figure for scene in scenes]
    return Labels(
        torch.tensor([[float(h in s.hazards) for h in HAZARDS] for s in scenes]),
        torch.tensor([ATTRIBUTES.index(str(f.attribute)) if f else -100 for f in figures]),
        torch.tensor([JUDGE_PROFESSIONS.index(f.name if f else "none") for f in figures]),
        torch.tensor([PLACES.index(s.place) for s in scenes]),
    )


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, recolour, blur and add noise to (B, 3, 64, 64) in [-1, 1]: what a VAE and a U-Net do to an image."""

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    b = x.shape[0]
    dx, dy = (int(v) for v in torch.randint(-3, 4, (2,), generator=generator))
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")[:, :, 3 + dy : 67 + dy, 3 + dx : 67 + dx]
    x = x * uniform(0.8, 1.2, b, 1, 1, 1) + uniform(-0.12, 0.12, b, 3, 1, 1)
    small = F.interpolate(x, scale_factor=0.5, mode="area")
    blurred = F.interpolate(small, size=(64, 64), mode="bilinear", align_corners=False)
    mix = uniform(0, 1, b, 1, 1, 1) * (uniform(0, 1, b, 1, 1, 1) < 0.6)
    x = x + mix * (blurred - x)
    noise = torch.randn(x.shape, generator=generator)
    return (x + uniform(0, 0.08, b, 1, 1, 1) * noise).clamp(-1, 1)


def judge_loss(judge: Judge, x: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Sum of the heads' cross-entropies."""
    with torch.autocast("cpu", torch.bfloat16):
        pooled = judge.pooled(x)
    hazards, attribute, profession, place = judge.logits(pooled.float())
    loss = 3 * F.binary_cross_entropy_with_logits(hazards, labels.hazards)
    loss = loss + F.cross_entropy(attribute, labels.attribute, ignore_index=-100)
    return loss + F.cross_entropy(profession, labels.profession) + F.cross_entropy(place, labels.place)


def train_judge(workspace: Workspace) -> list[float]:
    """Train, or resume, and write `weights/judge.safetensors`; return the losses of this call's steps."""
    recipe = RECIPE.scaled(workspace.scale)
    judge: Judge = seeded_init(Judge, KEY).train()
    pictures = pairs_pictures(workspace)

    def loss_at(step: int) -> torch.Tensor:
        index = np.sort(rng_of(KEY, 1, step).choice(len(pictures), recipe.batch, replace=False))
        labels = labels_of([pairs_scene(int(i)) for i in index])
        return judge_loss(judge, augment(to_input(np.asarray(pictures[index])), torch_rng_of(KEY, 2, step)), labels)

    losses = Fit("judge", recipe, judge, loss_at, workspace.checkpoints / "judge.pt").run()
    save_half(workspace.weights / "judge.safetensors", dict(judge.state_dict()))
    return losses
