"""Models for tests: a random-weight pipeline of Stable Diffusion's shape, and the embedded one where it is there."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.models.loaded import LoadedModel
from harness.models.loading import load_model
from harness.models.weights import missing
from harness.records import GenerationSettings, ImageItem, ImageKey

SIZE = 32
MICRO: dict[str, Any] = {"name": "micro", "source": "pkg://harness.micro/weights/pipeline", "dtype": "float32"}


@lru_cache(maxsize=1)
def random_config(seed: int = 0) -> dict[str, Any]:
    """Write a tiny random-weight pipeline to a temporary folder and return its model config."""
    folder = Path(tempfile.mkdtemp(prefix="random-weight-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_random_pipeline(folder, seed)
    return {
        "name": "random-weight", "family": "sd1", "source": str(folder), "dtype": "float32", "size": SIZE,
        "num_inference_steps": 5, "guidance_scale": 5.0, "batch_size": 4,
    }  # fmt: skip


def write_random_pipeline(folder: Path, seed: int = 0, prediction_type: str = "epsilon") -> None:
    """Save an untrained pipeline; its cross-attention is amplified so that texts make a difference."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from harness.micro.bpe import write_tokenizer

    tokenizer = write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokenizer), max_position_embeddings=77, hidden_size=32, intermediate_size=64,
            num_attention_heads=2, num_hidden_layers=2, eos_token_id=len(tokenizer) - 1))
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 16, 16), layers_per_block=1, norm_num_groups=8, sample_size=SIZE)
        unet = UNet2DConditionModel(
            sample_size=SIZE // 4, layers_per_block=1, block_out_channels=(32, 32), norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32, attention_head_dim=2)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out" in name:
                parameter.mul_(6)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type)
    StableDiffusionPipeline(vae, text.eval(), tokenizer, unet.eval(), scheduler, None, None,
                            requires_safety_checker=False).save_pretrained(folder)


@lru_cache(maxsize=1)
def random_model() -> LoadedModel:
    """Return the random-weight model, loaded once per process."""
    return load_model(random_config())


@lru_cache(maxsize=1)
def micro_model() -> LoadedModel:
    """Return the embedded model; its weights are part of the repository."""
    problem = missing(MICRO)
    assert problem is None, problem
    return load_model(MICRO)


def make_items(count: int, guidance_scale: float = 5.0, first_seed: int = 0) -> list[ImageItem]:
    """Return items with different prompts and seeds."""
    texts = ["a doctor in a field", "a campfire at night", "a nurse and a ball", "a cursed house", "", "a pilot"]
    return [ImageItem(ImageKey(f"p{n}", 0), texts[n % len(texts)], first_seed + n, guidance_scale)
            for n in range(count)]


def make_settings(steps: int = 5, size: int = SIZE, batch_size: int = 4) -> GenerationSettings:
    return GenerationSettings(num_inference_steps=steps, height=size, width=size, batch_size=batch_size)


@lru_cache(maxsize=2)
def random_xl_config(prediction_type: str = "epsilon", forces_zeros: bool = True) -> dict[str, Any]:
    """Write a tiny random-weight pipeline of SDXL's shape to a temporary folder and return its model config."""
    folder = Path(tempfile.mkdtemp(prefix="random-weight-xl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_random_xl_pipeline(folder, 0, prediction_type, forces_zeros)
    return random_config() | {"name": "random-weight-xl", "family": "sdxl", "source": str(folder)}


def write_random_xl_pipeline(folder: Path, seed: int = 0, prediction_type: str = "epsilon", forces_zeros: bool = True
                             ) -> None:
    """Save an untrained pipeline with two text encoders, pooled embeddings and time ids; texts are amplified."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from harness.micro.bpe import write_tokenizer

    tokenizers = [write_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    size = len(tokenizers[0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = [kind(CLIPTextConfig(
            vocab_size=size, max_position_embeddings=77, hidden_size=32, intermediate_size=64, num_attention_heads=2,
            num_hidden_layers=2, eos_token_id=size - 1, projection_dim=32)).eval()
            for kind in (CLIPTextModel, CLIPTextModelWithProjection)]
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 16, 16), layers_per_block=1, norm_num_groups=8, sample_size=SIZE)
        unet = UNet2DConditionModel(
            sample_size=SIZE // 4, layers_per_block=1, block_out_channels=(32, 32), norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=64, attention_head_dim=2,
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8)  # pooled embedding and six numbers
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out" in name:
                parameter.mul_(6)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type)
    StableDiffusionXLPipeline(
        vae, *texts, *tokenizers, unet.eval(), scheduler, force_zeros_for_empty_prompt=forces_zeros,
        add_watermarker=False).save_pretrained(folder)


@lru_cache(maxsize=1)
def random_xl_model() -> LoadedModel:
    """Return the random-weight model of SDXL's shape, loaded once per process."""
    return load_model(random_xl_config())
