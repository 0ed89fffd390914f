"""Shapes of the miniature networks, in diffusers' and transformers' own classes."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from harness.micro.bpe import END, START

WIDTH = 128
LATENT_SIZE = 16
LATENT_CHANNELS = 4


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build an untrained micro-CLIP: 3-layer text and vision towers, 128 wide, projection 128."""
    ids = {
        "bos_token_id": tokenizer.convert_tokens_to_ids(START),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(END),
    }
    shape = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4,
             "num_hidden_layers": 3, "projection_dim": WIDTH}  # fmt: skip
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=77, **ids, **shape)
    vision = CLIPVisionConfig(image_size=64, patch_size=8, **shape)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))


def make_vae() -> AutoencoderKL:
    """Build an untrained micro-VAE: 64 x 64 x 3 to 16 x 16 x 4."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        sample_size=64,
    )


def make_unet() -> UNet2DConditionModel:
    """Build an untrained micro-U-Net: cross-attention at 8 x 8 and in the middle, 4.0 M parameters."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )


def make_scheduler() -> DDIMScheduler:
    """Build the scheduler of SD 1.x: scaled-linear betas, epsilon prediction."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip


def parameter_count(model: torch.nn.Module) -> int:
    """Count the parameters of a model."""
    return sum(p.numel() for p in model.parameters())
