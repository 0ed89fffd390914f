"""A direction in the bottleneck of the denoiser (h-space), learned from images that the model itself made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.lib.reading import UnreadableFileError, read_json
from harness.models.conditions import condition, denoiser_inputs
from harness.models.folder import model_folder
from harness.training.frozen import frozen_denoiser
from harness.training.generated_images import image_size
from harness.training.loop_memory import CHECKPOINT, Carried, LoopMemory, adam_step
from harness.training.prompts import derived_seed

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

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
    with torch.no_grad():
        for first in range(0, len(images), ENCODE_BATCH):
            part = np.stack(images[first : first + ENCODE_BATCH])
            pixels = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 127.5 - 1
            posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
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


def bottleneck_channels(config: Mapping[str, Any]) -> int | None:
    """Return the channels of the mid block of a settled model config's U-Net; None if its files are not here."""
    folder = model_folder(config) if config.get("source") else None
    try:
        config_file = (read_json(folder / "unet" / "config.json") if folder else None) or {}
    except UnreadableFileError:
        return None
    widths = config_file.get("block_out_channels")
    channels = widths[-1] if isinstance(widths, list) and widths else None
    return channels if isinstance(channels, int) and channels > 0 else None


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

        self.model, self.latents, self.texts, self.seed = model, latents, list(texts), seed
        self.generator = torch.Generator().manual_seed(seed)
        start = init * (2 * torch.rand(bottleneck_shape(model), generator=self.generator) - 1)
        self.h = start.to(model.device).requires_grad_()
        self.adam = torch.optim.Adam([self.h], lr=learning_rate)

    def run(self, steps: int, batch: int, progress: Callable[[int, int], None], name: str = CHECKPOINT) -> list[float]:
        """Take `steps` steps of `batch` images; return each step's loss. A loss that is not finite stops it."""
        memory = LoopMemory(self.model.training_folder, self.adam, {"h": self.h}, Carried(self.generator), name)
        with frozen_denoiser(self.model), bottleneck_edited(self.model, lambda output: output + self.h), memory:
            for step in memory.remaining(steps):
                loss = self.loss(step, batch)
                if not math.isfinite(loss):
                    memory.save()
                    raise HarnessError(f"training diverged: the loss is {loss} at step {step + 1} of {steps}.",
                                       f"Lower method.training.learning_rate. {memory.kept}")
                adam_step(memory, self.adam, loss)
                progress(step + 1, steps)
            memory.save()  # more directions may follow
        return memory.losses

    def draw(self, step: int, batch: int) -> Tensor:
        """Return the rows of a step's images; all of them come round, shuffled again, before one comes again."""
        import torch

        n = len(self.texts)
        places = range(step * batch, (step + 1) * batch)
        return torch.tensor([int(self._order(place // n)[place % n]) for place in places])

    def _order(self, epoch: int) -> Tensor:
        import torch

        generator = torch.Generator().manual_seed(derived_seed(self.seed, "epoch", epoch))
        return torch.randperm(len(self.texts), generator=generator)

    def loss(self, step: int, batch: int) -> float:
        """Set the gradient of the loss of a step's images, timesteps and noise drawn again; return the loss."""
        import torch

        model, generator = self.model, self.generator
        rows = self.draw(step, batch)
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
        return float(loss.detach())
