"""A random-weight cascade of DeepFloyd IF's shape: three tiny pipelines, each in a folder of its own."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.models.loaded import LoadedModel
from harness.models.loading import load_model

SIDES = (16, 32, 128)  # pixels after each stage
WIDTH = 32  # of the texts


def t5_tokenizer() -> Any:
    """Return T5's kind of tokenizer with letters as its tokens."""
    from transformers import T5Tokenizer

    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz,"]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *letters], extra_ids=0)


def t5_encoder(width: int = WIDTH) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=32, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4)
                          ).eval()


def _unet(channels: int, side: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side, in_channels=channels, out_channels=6, act_fn="gelu", attention_head_dim=16,
        block_out_channels=(32, 64), cross_attention_dim=64, cross_attention_norm="group_norm", encoder_hid_dim=WIDTH,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), layers_per_block=1,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift", norm_num_groups=8,
        addition_embed_type="text", addition_embed_type_num_heads=2, **more,
    ).eval()  # fmt: skip


def _ddpm() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True,
                         dynamic_thresholding_ratio=0.95, sample_max_value=1.5)


def write_stage_1(folder: Path) -> None:
    """Save IF-I's kind of pipeline; its texts are amplified."""
    import torch
    from diffusers import IFPipeline

    unet = _unet(3, SIDES[0])
    with torch.no_grad():
        unet.encoder_hid_proj.weight.mul_(20)
    IFPipeline(t5_tokenizer(), t5_encoder(), unet, _ddpm(), None, None, None, requires_safety_checker=False
               ).save_pretrained(folder)


def write_stage_2(folder: Path) -> None:
    """Save IF-II's kind of pipeline, with the text encoder that its repository holds too."""
    from diffusers import DDPMScheduler, IFSuperResolutionPipeline

    unet = _unet(6, SIDES[1], class_embed_type="timestep")
    noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    IFSuperResolutionPipeline(t5_tokenizer(), t5_encoder(), unet, _ddpm(), noising, None, None, None,
                              requires_safety_checker=False).save_pretrained(folder)


def write_stage_3(folder: Path) -> None:
    """Save the kind of Stable Diffusion's upscaler."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionUpscalePipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    from harness.micro.bpe import write_tokenizer

    tokenizer = write_tokenizer(folder / "tokenizer")
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
                                        num_attention_heads=2, num_hidden_layers=1)).eval()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=8, sample_size=SIDES[2]).eval()
    unet = UNet2DConditionModel(
        sample_size=SIDES[1], in_channels=7, layers_per_block=1, block_out_channels=(16, 16), norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=2, num_class_embeds=1000).eval()
    StableDiffusionUpscalePipeline(vae, text, tokenizer, unet, DDPMScheduler(), DDIMScheduler(clip_sample=False),
                                   max_noise_level=350).save_pretrained(folder)


@lru_cache(maxsize=1)
def if_folders() -> tuple[Path, Path, Path]:
    """Write the three pipelines once a process."""
    import torch

    root = Path(tempfile.mkdtemp(prefix="random-weight-if-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for number, write in enumerate((write_stage_1, write_stage_2, write_stage_3), start=1):
            write(root / str(number))
    return root / "1", root / "2", root / "3"


def if_config(stage: int = 1) -> dict[str, Any]:
    """Return the model config of the random-weight cascade, stopping after `stage`."""
    first, second, third = map(str, if_folders())
    return {
        "name": "random-weight-if", "family": "if", "source": first, "dtype": "float32", "size": None,
        "first_size": SIDES[0], "num_inference_steps": 3, "guidance_scale": 5.0, "batch_size": 4, "stage": stage,
        "stages": [
            {"source": second, "pipeline": "IFSuperResolutionPipeline", "without": ["text_encoder", "tokenizer"],
             "num_inference_steps": 2, "guidance_scale": 4.0, "noise_level": 250, "size": SIDES[1]},
            {"source": third, "pipeline": "StableDiffusionUpscalePipeline", "num_inference_steps": 2,
             "guidance_scale": 9.0, "noise_level": 100, "size": SIDES[2]},
        ],
    }  # fmt: skip


@lru_cache(maxsize=2)
def if_model(stage: int) -> LoadedModel:
    """Return the random-weight cascade, loaded once a process."""
    return load_model(if_config(stage))
