"""Train the micro-VAE: both halves first, then the decoder alone, which leaves the latents as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from harness.micro.judge import to_input
from harness.micro.models import make_vae
from harness.micro.training.common import Fit, Recipe, Workspace, log, rng_of, save_half, seeded_init, torch_rng_of
from harness.micro.training.pictures import world_pictures

BOTH = Recipe(steps=1200, batch=8, lr=2e-3, flat=0.3)
DECODER = Recipe(steps=800, batch=8, lr=1e-3)
KEY = 12
KL_WEIGHT = 2e-4


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + 2 MSE + 0.5 L1 of the horizontal and vertical differences; (B, 3, H, W) in [-1, 1]."""
    error = output - target
    gradient = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * gradient


def _pixels(pictures: np.ndarray, phase: int, step: int, batch: int) -> torch.Tensor:
    index = np.sort(rng_of(KEY, phase, step).choice(len(pictures), batch, replace=False))
    return to_input(np.asarray(pictures[index]))


def _both_loss(vae: AutoencoderKL, pixels: torch.Tensor, step: int) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        moments = vae.quant_conv(vae.encoder(pixels))
    mean, logvar = moments.float().chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    noise = torch.randn(mean.shape, generator=torch_rng_of(KEY, 3, step))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean() / pixels[0].numel()
    with torch.autocast("cpu", torch.bfloat16):
        output = vae.decoder(vae.post_quant_conv(mean + noise * (0.5 * logvar).exp()))
    return reconstruction_loss(output.float(), pixels) + KL_WEIGHT * kl


def _decoder_loss(vae: AutoencoderKL, pixels: torch.Tensor, step: int) -> torch.Tensor:
    """Decode means with a little noise: the U-Net's latents are never exact."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            mean = vae.quant_conv(vae.encoder(pixels)).float().chunk(2, dim=1)[0]
        noise = torch.randn(mean.shape, generator=torch_rng_of(KEY, 4, step))
        output = vae.decoder(vae.post_quant_conv(mean + 0.05 * mean.std() * noise))
    return reconstruction_loss(output.float(), pixels)


def _step_loss(
    vae: AutoencoderKL,
    pictures: np.ndarray,
    loss_of: Callable[[AutoencoderKL, torch.Tensor, int], torch.Tensor],
    phase_and_batch: tuple[int, int],
    step: int,
) -> torch.Tensor:
    phase, batch = phase_and_batch
    return loss_of(vae, _pixels(pictures, phase, step, batch), step)


def train_vae(workspace: Workspace) -> list[float]:
    """Train, or resume, and write `weights/pipeline/vae`; return the losses of this call's steps."""
    vae: AutoencoderKL = seeded_init(make_vae, KEY).train()
    pictures = world_pictures(workspace)
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    phases = (("vae", BOTH, _both_loss, list(vae.parameters())), ("vae decoder", DECODER, _decoder_loss, decoder))
    losses: list[float] = []
    for phase, (name, full, loss_of, parameters) in enumerate(phases):
        recipe = full.scaled(workspace.scale)
        checkpoint = workspace.checkpoints / f"{name.replace(' ', '_')}.pt"
        loss_at = partial(_step_loss, vae, pictures, loss_of, (phase, recipe.batch))
        losses += Fit(name, recipe, vae, loss_at, checkpoint, parameters, clip_norm=1.0).run()
    _set_scaling_factor(vae, pictures)
    export_vae(vae, workspace)
    return losses


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    """Encode (B, 64, 64, 3) uint8 to posterior means, (B, 4, 16, 16) float32, not scaled."""
    with torch.autocast("cpu", torch.bfloat16):
        return vae.quant_conv(vae.encoder(to_input(pictures))).float().chunk(2, dim=1)[0]


def _set_scaling_factor(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    vae.eval()
    latents = torch.cat([encode(vae, np.asarray(pictures[i : i + 64])) for i in range(0, 256, 64)])
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    log.info("vae scaling factor %s, mean %s", vae.config.scaling_factor, latents.mean((0, 2, 3)).tolist())


def export_vae(vae: AutoencoderKL, workspace: Workspace) -> None:
    """Write the VAE (fp16) in diffusers' layout."""
    folder = workspace.weights / "pipeline" / "vae"
    vae.save_config(folder)
    save_half(folder / "diffusion_pytorch_model.safetensors", dict(vae.state_dict()))


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    """Peak signal-to-noise ratio of reconstructions in dB, (B,), of (B, 64, 64, 3) uint8 images."""
    pixels = to_input(pictures)
    output = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    return -10 * torch.log10(F.mse_loss(output / 2, pixels / 2, reduction="none").mean((1, 2, 3)))
