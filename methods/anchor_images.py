"""Concept Ablation's training pictures: drawn by the model from anchor captions, and framed as its release frames them.

A picture goes through the VAE at every step. With `augment` it is shrunk and pasted somewhere, or enlarged and cropped;
a mask says where in its latents the picture is, less a border of one latent. Released code: diffusers/utils.py, which
also stores the pictures as JPEG files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

FAR, NEAR = ("a far away ", "very small "), ("zoomed in ", "close up ")
SHRUNK = 0.66  # the share of pictures that are made smaller, down to a third of their side


@dataclass(frozen=True)
class AnchorImages:
    """The model's own pictures, (S, S, 3) uint8, and the caption of each."""

    images: Sequence[np.ndarray]
    prompts: Sequence[str]


@dataclass(frozen=True)
class Frame:
    """How a picture of side S is shown: resized to `scale`, pasted or cropped at `top`, `left`, perhaps mirrored."""

    scale: int
    top: int = 0
    left: int = 0
    mirrored: bool = False
    words: str = ""  # before its prompt


def draw_frame(side: int, augment: bool, flip: bool, generator: Generator) -> Frame:
    """Draw a frame: of the whole picture unless `augment`; half of all are mirrored if `flip`."""
    import torch

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    mirrored = flip and float(torch.rand(1, generator=generator)) < 0.5
    if not augment:
        return Frame(side, mirrored=mirrored)
    shrunk = float(torch.rand(1, generator=generator)) < SHRUNK
    scale = integer(side // 3, side + 1) if shrunk else integer(int(1.2 * side), int(1.4 * side))
    room = abs(side - scale) + 1
    words = FAR if scale < 0.6 * side else NEAR if scale > side else ("", "")
    return Frame(scale, integer(0, room), integer(0, room), mirrored, words[integer(0, 2)])


def framed(image: np.ndarray, frame: Frame) -> np.ndarray:
    """Return the picture in its frame: (S, S, 3) float32 in [-1, 1], 0 around one that was made smaller."""
    from PIL import Image

    side, scale = len(image), frame.scale
    shown = np.asarray(image[:, ::-1] if frame.mirrored else image)
    if scale != side:
        shown = np.asarray(Image.fromarray(shown).resize((scale, scale), Image.Resampling.LANCZOS))
    values = (shown / 127.5 - 1.0).astype(np.float32)
    if scale > side:
        return values[frame.top : frame.top + side, frame.left : frame.left + side]
    whole = np.zeros((side, side, 3), np.float32)
    whole[frame.top : frame.top + scale, frame.left : frame.left + scale] = values
    return whole


def frame_mask(side: int, frame: Frame, factor: int) -> np.ndarray:
    """Return (S / factor, S / factor) float32: 1 where the picture is, less a border; 1 everywhere in a crop."""
    mask = np.zeros((side // factor, side // factor), np.float32)
    if frame.scale > side:
        return mask + 1
    rows, columns = (slice(at // factor + 1, (at + frame.scale) // factor - 1) for at in (frame.top, frame.left))
    mask[rows, columns] = 1
    return mask


def masked_error(predicted: Tensor, goal: Tensor, mask: Tensor) -> Tensor:
    """Return the squared error (B, C, h, w), averaged over the mask (B, 1, h, w) and summed over channels, mean of B.

    As released: with C = 4 channels it weighs four times what a mean over all would. A picture too small for its mask
    counts nothing; there the release divides 0 by 0.
    """
    import torch

    error = ((predicted - goal).square() * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)
    return torch.mean(error)


def encoded(model: LoadedModel, pictures: Sequence[np.ndarray], generator: Generator) -> Tensor:
    """Draw a latent (N, C, h, w) of each picture (S, S, 3) in [-1, 1] from the VAE's posterior, float32, scaled."""
    import torch

    vae = model.pipe.vae
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(vae.device, vae.dtype)
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(vae.device)
    return (posterior.mean.float() + posterior.std.float() * noise) * vae.config.scaling_factor


@contextmanager
def sampled_by(model: LoadedModel, scheduler: str | None) -> Iterator[None]:
    """Let the pipeline sample with another scheduler, null being its own; leaving gives it its own back."""
    own = model.pipe.scheduler
    model.pipe.scheduler = model.scheduler(scheduler)
    try:
        yield
    finally:
        model.pipe.scheduler = own


@contextmanager
def begin_token_detached(denoiser: object) -> Iterator[None]:
    """Let no gradient reach keys and values through the begin token of cross-attention, as the release's processors."""
    import torch

    def hook(module: object, inputs: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

    modules = denoiser.named_modules()  # type: ignore[attr-defined]
    handles = [module.register_forward_hook(hook) for name, module in modules
               if name.endswith(("attn2.to_k", "attn2.to_v"))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
