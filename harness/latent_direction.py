"""A direction in the bottleneck of the denoiser (h-space), learned from images that the model itself made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.conditions import condition, denoiser_inputs
from harness.errors import HarnessError
from harness.own_images import image_size
from harness.training import frozen_denoiser

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from harness.models import LoadedModel

ENCODE_BATCH = 8


def diffused(z0: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """Return z_t = sqrt(abar) z0 + sqrt(1 - abar) n."""
    return abar.sqrt() * z0 + (1 - abar).sqrt() * noise


def regressed(z0: Tensor, noise: Tensor, abar: Tensor, prediction_type: str) -> Tensor:
    """Return what the denoiser is to predict: the noise, or the velocity sqrt(abar) n - sqrt(1 - abar) z0."""
    return noise if prediction_type == "epsilon" else abar.sqrt() * noise - (1 - abar).sqrt() * z0


@dataclass(frozen=True)
class Latents:
    """The VAE's posterior of each image, scaled for the denoiser: mean and standard deviation (N, C, H, W), float32."""

    mean: Tensor
    std: Tensor

    def sample(self, rows: Tensor, generator: Generator) -> Tensor:
        """Draw a latent of each of `rows`."""
        import torch

        noise = torch.randn(len(rows), *self.mean.shape[1:], generator=generator)
        return self.mean[rows] + self.std[rows] * noise.to(self.mean.device)


def encoded(model: LoadedModel, images: Sequence[np.ndarray]) -> Latents:
    """Encode (H, W, 3) uint8 images."""
    import numpy as np
    import torch

    vae, means, stds = model.pipe.vae, [], []
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        for part in pixels.split(ENCODE_BATCH):
            posterior = vae.encode(part.to(vae.device, vae.dtype)).latent_dist
            means.append(posterior.mean.float())
            stds.append(posterior.std.float())
    factor = vae.config.scaling_factor
    return Latents(factor * torch.cat(means), factor * torch.cat(stds))


def bottleneck_shape(model: LoadedModel) -> tuple[int, int, int]:
    """Return (C, h, w) of the mid block's output at the model's image size."""
    config = model.denoiser.config
    side = math.ceil(image_size(model) / model.pipe.vae_scale_factor)
    for _ in config.block_out_channels[1:]:
        side = math.ceil(side / 2)
    return config.block_out_channels[-1], side, side


@contextmanager
def bottleneck_edited(model: LoadedModel, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Pass the mid block's output (rows, C, h, w) through `edit`; None leaves it alone. Leaving removes the hook."""

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        return edit(output)

    handle = model.denoiser.mid_block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class LatentDirectionTrainer:
    """Learns h (C, h, w) by min_h E |n - eps(z_t, t, y; mid += h)|^2, all else frozen (InterpretDiffusion, eq. 5)."""

    def __init__(self, model: LoadedModel, latents: Latents, texts: Sequence[str], seed: int, learning_rate: float,
                 init: float) -> None:
        import torch

        self.model, self.latents, self.texts = model, latents, list(texts)
        self.generator = torch.Generator().manual_seed(seed)
        start = init * (2 * torch.rand(bottleneck_shape(model), generator=self.generator) - 1)
        self.h = start.to(model.device).requires_grad_()
        self.adam = torch.optim.Adam([self.h], lr=learning_rate)

    def run(self, steps: int, batch: int, progress: Callable[[int, int], None]) -> list[float]:
        """Take `steps` steps of `batch` images; return each step's loss. A loss that is not finite stops it."""
        losses = []
        with frozen_denoiser(self.model), bottleneck_edited(self.model, lambda output: output + self.h):
            for step in range(steps):
                losses.append(self.step(batch))
                if not math.isfinite(losses[-1]):
                    raise HarnessError(f"training diverged: the loss is {losses[-1]} at step {step + 1} of {steps}.",
                                       "Lower method.training.learning_rate.")
                progress(step + 1, steps)
        return losses

    def step(self, batch: int) -> float:
        """Take one Adam step on images, timesteps and noise drawn anew."""
        import torch

        model, generator = self.model, self.generator
        rows = torch.randint(len(self.texts), (batch,), generator=generator)
        alphas = model.pipe.scheduler.alphas_cumprod.to(model.device, torch.float32)
        t = torch.randint(len(alphas), (batch,), generator=generator).to(model.device)
        z0 = self.latents.sample(rows, generator)
        noise = torch.randn(z0.shape, generator=generator).to(model.device)
        abar = alphas[t].view(-1, 1, 1, 1)
        z = diffused(z0, noise, abar)
        y = denoiser_inputs(model, z, condition(model, [self.texts[row] for row in rows.tolist()]))
        with torch.enable_grad():
            predicted = model.denoiser(z, t, **y, return_dict=False)[0]
            loss = (predicted - regressed(z0, noise, abar, model.prediction_type)).square().mean()
            self.adam.zero_grad()
            loss.backward()
        self.adam.step()
        return float(loss.detach())
