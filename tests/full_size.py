"""Random-weight models of the published sizes: the very architectures, nothing learned.

They prove shapes, memory and hooks where no weights are.

The numbers are those of the configs that the hub's repositories publish; parameter counts are checked against them.
Tokenizers are the embedded world's (its ids are valid in every vocabulary), because vocabularies are files, too.
`python -m tests.full_size` prints the table of what `make geometry` measured.
"""

from __future__ import annotations

import ctypes
import gc
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from harness.models.families import FAMILIES
from harness.models.loaded import LoadedModel
from tests.support.fixtures_if import t5_tokenizer

RESULTS = Path("build/geometry.jsonl")
BILLION = 1e9


@dataclass(frozen=True)
class FullSize:
    """How a model of the published size is built, and what it must have in parameters."""

    family: str
    make: Callable[[], Any]
    parameters: int  # of the denoiser
    image: int  # pixels a side, reduced
    dtype: str = "float32"
    guidance_scale: float = 7.5


@dataclass(frozen=True)
class Measured:
    """One method on one model: what it took. Gigabytes of the whole process, 10^9 bytes."""

    model: str
    preset: str
    seconds: float
    peak_gb: float


def clip_text(width: int, layers: int, heads: int, act: str, projection: int = 0) -> Any:
    """Build a CLIP text encoder of 49,408 tokens; `projection` makes it one that projects."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, hidden_act=act, projection_dim=projection or width, eos_token_id=2,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def kl_vae(**changes: Any) -> Any:
    """Build Stable Diffusion's autoencoder."""
    from diffusers import AutoencoderKL

    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
    }  # fmt: skip
    return AutoencoderKL(**settings | changes)


def sd_scheduler(prediction_type: str) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type)


def tokenizer() -> Any:
    from harness.micro.bpe import write_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        return write_tokenizer(Path(folder))


def sd(text: Any, unet: Mapping[str, Any], prediction_type: str) -> Any:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    return StableDiffusionPipeline(kl_vae(), text, tokenizer(), UNet2DConditionModel(**unet),
                                   sd_scheduler(prediction_type), None, None, requires_safety_checker=False)


def sd14() -> Any:
    """CompVis/stable-diffusion-v1-4."""
    return sd(clip_text(768, 12, 12, "quick_gelu"),
              {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}, "epsilon")


def sd20() -> Any:
    """stabilityai/stable-diffusion-2: OpenCLIP ViT-H/14 without its last layer, v-prediction."""
    return sd(clip_text(1024, 23, 16, "gelu"),
              {"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
               "use_linear_projection": True}, "v_prediction")  # fmt: skip


def sdxl() -> Any:
    """stabilityai/stable-diffusion-xl-base-1.0."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    texts = (clip_text(768, 12, 12, "quick_gelu"), clip_text(1280, 32, 20, "gelu", projection=1280))
    return StableDiffusionXLPipeline(kl_vae(scaling_factor=0.13025, sample_size=1024), *texts, tokenizer(),
                                     tokenizer(), unet, sd_scheduler("epsilon"), add_watermarker=False)


def t5_text() -> Any:
    """Build T5-XXL's encoder with two of its 24 layers, so that 24 GB hold the rest."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=2, num_heads=64,
                                   feed_forward_proj="gated-gelu"))


def sd35_medium() -> Any:
    """stabilityai/stable-diffusion-3.5-medium, with two of T5's layers."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64,
        num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
        pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
    )  # fmt: skip
    vae = kl_vae(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, sample_size=1024,
                 use_quant_conv=False, use_post_quant_conv=False)
    texts = (clip_text(768, 12, 12, "quick_gelu", projection=768), clip_text(1280, 32, 20, "gelu", projection=1280))
    first, second = tokenizer(), tokenizer()
    return StableDiffusion3Pipeline(transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), vae, texts[0], first,
                                    texts[1], second, t5_text(), t5_tokenizer())


def if_xl() -> Any:
    """DeepFloyd/IF-I-XL-v1.0, the first stage, with two of T5's layers."""
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=64, in_channels=3, out_channels=6, act_fn="gelu", addition_embed_type="text",
        addition_embed_type_num_heads=64, attention_head_dim=64, block_out_channels=(704, 1408, 2112, 2816),
        cross_attention_dim=2816, cross_attention_norm="group_norm", encoder_hid_dim=4096, layers_per_block=3,
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True,
                              dynamic_thresholding_ratio=0.95, sample_max_value=1.5)
    return IFPipeline(t5_tokenizer(), t5_text(), unet, scheduler, None, None, None, requires_safety_checker=False)


MODELS: dict[str, FullSize] = {
    "sd14": FullSize("sd1", sd14, 859_520_964, 128),
    "sd20": FullSize("sd2", sd20, 865_910_724, 128),
    "sdxl": FullSize("sdxl", sdxl, 2_567_463_684, 128, "bfloat16", 5.0),
    "if_xl": FullSize("if", if_xl, 4_304_695_110, 64, "bfloat16", 7.0),
    "sd35_medium": FullSize("sd3", sd35_medium, 2_243_171_520, 128, "bfloat16", 4.5),
}


@lru_cache(maxsize=1)
def full_size_model(name: str) -> LoadedModel:
    """Build a random-weight model of the published size; only the last one asked for is kept."""
    full_size_model.cache_clear()
    size = MODELS[name]
    dtype, before = getattr(torch, size.dtype), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = size.make()
    finally:
        torch.set_default_dtype(before)
    pipe.set_progress_bar_config(disable=True)
    denoiser = getattr(pipe, FAMILIES[size.family].part)
    # Methods train at the size that a denoiser says it is for: the reduced one here.
    denoiser.register_to_config(sample_size=size.image // getattr(pipe, "vae_scale_factor", 1))
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(dtype).eval()
    config = {"name": f"{name}, random-weight", "family": size.family, "dtype": size.dtype, "size": size.image,
              "guidance_scale": size.guidance_scale}
    kind = FAMILIES[size.family].prediction or pipe.scheduler.config.prediction_type
    return LoadedModel(pipe=pipe, config=config, family=size.family, prediction_type=kind, device=torch.device("cpu"),
                       dtype=dtype, fingerprint=f"random-weight {name}", kin=FAMILIES[size.family])


def reset_peak() -> None:
    """Let the kernel count the peak of resident memory from now on (Linux); what was freed before goes back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Return the process's peak of resident memory since `reset_peak`, in 10^9 bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / BILLION


def record(measured: Measured) -> None:
    """Append a measurement to the results."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(measured)) + "\n")


def table(lines: list[str]) -> str:
    """Return the last measurement of each method on each model as a table."""
    found = {(row["model"], row["preset"]): row for row in map(json.loads, lines)}
    models = [name for name in MODELS if any(model == name for model, _ in found)]
    presets = sorted({preset for _, preset in found})
    head = "| method | " + " | ".join(f"`{name}`, {MODELS[name].dtype}, {MODELS[name].image} px" for name in models)
    rows = [head + " |", "|---" * (1 + len(models)) + "|"]
    for preset in presets:
        cells = [found.get((model, preset)) for model in models]
        rows.append(f"| {preset} | " + " | ".join(f"{c['peak_gb']:.1f} GB" if c else "—" for c in cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(RESULTS.read_text(encoding="utf-8").splitlines()))
