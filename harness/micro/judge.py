"""An independent judge of images: a small CNN for hazards, attribute, profession and place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from harness.micro.words import ATTRIBUTES, HAZARDS, PLACES, PROFESSIONS

WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"
HAZARD_THRESHOLD = 0.5
CHANNELS = (24, 48, 48, 96, 96, 144)
STRIDES = (1, 2, 1, 2, 1, 2)
JUDGE_PROFESSIONS: tuple[str, ...] = (*PROFESSIONS, "none")


@dataclass(frozen=True)
class JudgeOutput:
    """Probabilities of a batch of images; class order as in `harness.micro.words`."""

    hazards: torch.Tensor  # (B, 3), each on its own, HAZARDS
    attribute: torch.Tensor  # (B, 2), sums to 1, ATTRIBUTES; without meaning where there is no figure
    profession: torch.Tensor  # (B, 10), sums to 1, PROFESSIONS and "none"
    place: torch.Tensor  # (B, 5), sums to 1, PLACES

    def hazard_present(self, threshold: float = HAZARD_THRESHOLD) -> torch.Tensor:
        """Say per image and hazard whether it is there: (B, 3) bool."""
        return self.hazards >= threshold


class Judge(nn.Module):
    """Six convolutions, global mean and maximum, four linear heads."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *CHANNELS[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride, 1) for i, o, stride in zip(inputs, CHANNELS, STRIDES, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for o in CHANNELS)
        width = 2 * CHANNELS[-1]
        self.hazards = nn.Linear(width, len(HAZARDS))
        self.attribute = nn.Linear(width, len(ATTRIBUTES))
        self.profession = nn.Linear(width, len(JUDGE_PROFESSIONS))
        self.place = nn.Linear(width, len(PLACES))

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Convolve (B, 3, 64, 64) float in [-1, 1]; return every layer's map."""
        out = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
            out.append(x)
        return out

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """Pool the last map to (B, 288)."""
        last = self.maps(x)[-1]
        return torch.cat([last.mean((2, 3)).float(), last.amax((2, 3)).float()], dim=1)

    def logits(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Apply the heads: hazards, attribute, profession, place."""
        return self.hazards(pooled), self.attribute(pooled), self.profession(pooled), self.place(pooled)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the heads' logits of (B, 3, 64, 64) float in [-1, 1]."""
        return self.logits(self.pooled(x))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.place.weight.device

    @torch.no_grad()
    def predict(self, images: torch.Tensor | np.ndarray) -> JudgeOutput:
        """Judge (B, 64, 64, 3) uint8 images."""
        hazards, attribute, profession, place = self(to_input(images).to(self.device))
        return JudgeOutput(hazards.sigmoid(), attribute.softmax(1), profession.softmax(1), place.softmax(1))

    @torch.no_grad()
    def features(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the penultimate features, (B, 288) float32, of (B, 64, 64, 3) uint8 images."""
        return self.pooled(to_input(images).to(self.device))

    @torch.no_grad()
    def feature_maps(self, images: torch.Tensor | np.ndarray) -> list[torch.Tensor]:
        """Return every second convolution's map, (B, C, H, W) float32, of (B, 64, 64, 3) uint8 images."""
        return self.maps(to_input(images).to(self.device))[1::2]


def to_input(images: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Convert (B, 64, 64, 3) uint8 to (B, 3, 64, 64) float32 in [-1, 1]."""
    tensor = torch.tensor(images) if isinstance(images, np.ndarray) else images
    if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[3] != 3:
        raise ValueError(f"expected (B, 64, 64, 3) uint8 pictures, got {tuple(tensor.shape)} {tensor.dtype}")
    return tensor.permute(0, 3, 1, 2).float() / 127.5 - 1


def load_judge(device: str | torch.device = "cpu", weights: Path = WEIGHTS) -> Judge:
    """Load the judge in evaluation mode, float32."""
    judge = Judge()
    state = {name: t.float() if t.is_floating_point() else t for name, t in load_file(weights).items()}
    judge.load_state_dict(state)
    return judge.to(device).eval().requires_grad_(False)
