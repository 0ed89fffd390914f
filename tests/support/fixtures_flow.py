"""Random-weight pipelines of Stable Diffusion 3's and Flux's shape: transformers told CLIP and T5 texts."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.models.loaded import LoadedModel
from harness.models.loading import load_model
from tests.support.fixtures_models import SIZE, random_config

T5_TOKENS = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def temporary(prefix: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"random-weight-{prefix}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def t5_tokenizer() -> Any:
    """Return a tokenizer of T5's class that spells words by letters."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *LETTERS, *(f"\u2581{letter}" for letter in LETTERS)]
    return T5Tokenizer(vocab=[(piece, -float(rank)) for rank, piece in enumerate(pieces)], extra_ids=0,
                       model_max_length=512)  # fmt: skip


def t5_encoder(vocabulary: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def clip_config(vocabulary: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(vocab_size=vocabulary, max_position_embeddings=77, hidden_size=16, intermediate_size=32,
                          num_attention_heads=2, num_hidden_layers=2, eos_token_id=vocabulary - 1, projection_dim=16)


def flow_vae(channels: int) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 16), layers_per_block=1, norm_num_groups=8, sample_size=SIZE,
        latent_channels=channels, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
        use_post_quant_conv=False)  # fmt: skip


def amplified(transformer: Any) -> Any:
    """Make texts matter in an untrained transformer, and its predictions as large as a trained one's."""
    import torch

    parts = ("add_v_proj", "text_embedder", "guidance_embedder", "proj_out", "norm_out")
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if any(part in name for part in parts):
                parameter.mul_(6)
    return transformer.eval()


@lru_cache(maxsize=1)
def random_sd3_config() -> dict[str, Any]:
    """Write a tiny random-weight pipeline of Stable Diffusion 3's shape and return its model config."""
    folder = temporary("sd3")
    write_random_sd3_pipeline(folder)
    return random_config() | {"name": "random-weight-sd3", "family": "sd3", "source": str(folder),
                              "max_sequence_length": T5_TOKENS}


def write_random_sd3_pipeline(folder: Path, seed: int = 0) -> None:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    from harness.micro.bpe import write_tokenizer

    tokenizers = [write_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    t5 = t5_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = [CLIPTextModelWithProjection(clip_config(len(tokenizers[0]))).eval() for _ in range(2)]
        third = t5_encoder(len(t5))
        vae = flow_vae(16)
        transformer = SD3Transformer2DModel(
            sample_size=SIZE // 4, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
            pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm")  # fmt: skip
    StableDiffusion3Pipeline(
        amplified(transformer), FlowMatchEulerDiscreteScheduler(shift=3.0), vae, texts[0], tokenizers[0], texts[1],
        tokenizers[1], third, t5).save_pretrained(folder)  # fmt: skip


@lru_cache(maxsize=1)
def random_sd3_model() -> LoadedModel:
    """Return the random-weight model of Stable Diffusion 3's shape, loaded once per process."""
    return load_model(random_sd3_config())


@lru_cache(maxsize=2)
def random_flux_config(reads_guidance: bool = True) -> dict[str, Any]:
    """Write a tiny random-weight pipeline of Flux's shape, dev's or schnell's, and return its model config."""
    folder = temporary("flux")
    write_random_flux_pipeline(folder, reads_guidance)
    return random_config() | {"name": "random-weight-flux", "family": "flux", "source": str(folder),
                              "max_sequence_length": T5_TOKENS}


def write_random_flux_pipeline(folder: Path, reads_guidance: bool, seed: int = 0) -> None:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    from harness.micro.bpe import write_tokenizer

    tokenizer, t5 = write_tokenizer(folder / "tokenizer"), t5_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = CLIPTextModel(clip_config(len(tokenizer))).eval(), t5_encoder(len(t5))
        vae = flow_vae(4)
        transformer = FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
            guidance_embeds=reads_guidance)  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=reads_guidance)
    FluxPipeline(scheduler, vae, texts[0], tokenizer, texts[1], t5, amplified(transformer)).save_pretrained(folder)


@lru_cache(maxsize=2)
def random_flux_model(reads_guidance: bool = True) -> LoadedModel:
    """Return the random-weight model of Flux's shape, loaded once per process."""
    return load_model(random_flux_config(reads_guidance))
