"""Shapes of the miniature networks, in diffusers' and transformers' own classes."""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from harness.micro.bpe import END, START

WIDTH = 128
WIDTH_V = 192  # of micro_v's text encoder
LATENT_SIZE = 16
LATENT_CHANNELS = 4


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build an untrained micro-CLIP: 3-layer text and vision towers, 128 wide, projection 128."""
    vision = CLIPVisionConfig(image_size=64, patch_size=8, **_tower(WIDTH))
    text = _text_config(tokenizer, WIDTH)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))


def make_text_v(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Build micro_v's untrained text encoder: 3 layers, 192 wide, GELU, projection into micro-CLIP's 128."""
    return CLIPTextModelWithProjection(_text_config(tokenizer, WIDTH_V, hidden_act="gelu"))


def _text_config(tokenizer: CLIPTokenizer, width: int, hidden_act: str = "quick_gelu") -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        bos_token_id=tokenizer.convert_tokens_to_ids(START),
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.pad_token_id,
        hidden_act=hidden_act,
        **_tower(width),
    )


def _tower(width: int) -> dict[str, int]:
    return {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4,
            "num_hidden_layers": 3, "projection_dim": WIDTH}  # fmt: skip


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
    return _unet(WIDTH, linear=False)


def make_unet_v() -> UNet2DConditionModel:
    """Build micro_v's untrained U-Net: the same, with wider texts and Stable Diffusion 2's linear projections."""
    return _unet(WIDTH_V, linear=True)


def _unet(text_width: int, linear: bool) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        use_linear_projection=linear,
    )


def make_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Build the scheduler of SD: scaled-linear betas, and the prediction of 1.x or `v_prediction`, of 2."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type,
    )  # fmt: skip
