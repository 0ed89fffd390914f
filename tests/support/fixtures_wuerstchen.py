"""A random-weight Wuerstchen: a prior and a decoder, each a pipeline in a folder of its own."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.models.loaded import LoadedModel
from harness.models.loading import load_model
from tests.support.fixtures_flow import temporary
from tests.support.fixtures_models import SIZE, random_config


@lru_cache(maxsize=1)
def random_wuerstchen_config() -> dict[str, Any]:
    """Write tiny random-weight pipelines of Wuerstchen's shape and return their model config."""
    folder = temporary("wuerstchen")
    write_random_wuerstchen(folder / "prior", folder / "decoder")
    return random_config() | {"name": "random-weight-wuerstchen", "family": "wuerstchen",
                              "source": str(folder / "prior"), "stages": [decoder_stage(str(folder / "decoder"))]}


def decoder_stage(source: str) -> dict[str, Any]:
    """Return what `model.stages` says of a decoder."""
    return {"source": source, "pipeline": "WuerstchenDecoderPipeline", "num_inference_steps": 2}


def write_random_wuerstchen(prior_folder: Path, decoder_folder: Path, seed: int = 0) -> None:
    """Save both pipelines; an image of SIZE has embeddings of 4 x 4 and quantised latents of SIZE / 4."""
    import torch
    from diffusers import DDPMWuerstchenScheduler, WuerstchenDecoderPipeline, WuerstchenPriorPipeline
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt, WuerstchenPrior
    from transformers import CLIPTextConfig, CLIPTextModel

    from harness.micro.bpe import write_tokenizer

    tokenizers = [write_tokenizer(folder / "tokenizer") for folder in (prior_folder, decoder_folder)]
    size = len(tokenizers[0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        texts = [CLIPTextModel(CLIPTextConfig(
            vocab_size=size, max_position_embeddings=77, hidden_size=16, intermediate_size=32, num_attention_heads=2,
            num_hidden_layers=1, eos_token_id=size - 1)).eval() for _ in range(2)]
        prior = WuerstchenPrior(c_in=16, c=16, c_cond=16, c_r=8, depth=1, nhead=2, dropout=0.0)
        decoder = WuerstchenDiffNeXt(c_r=8, c_cond=16, c_hidden=[16], nhead=[2], blocks=[1], level_config=["CTA"],
                                     inject_effnet=[True], effnet_embd=16, clip_embd=16, dropout=0.0)
        vqgan = PaellaVQModel(bottleneck_blocks=1, embed_dim=16, num_vq_embeddings=8)
        with torch.no_grad():
            for name, parameter in prior.named_parameters():
                if "attention.to_v" in name or "attention.to_out" in name or "cond_mapper" in name:
                    parameter.normal_(std=0.5)
            for last in (prior.out[1], decoder.clf[1]):  # its second half divides: kept small
                last.weight.normal_(std=0.02)
                last.weight[: len(last.weight) // 2].normal_(std=0.3)
    WuerstchenPriorPipeline(tokenizers[0], texts[0], prior.eval(), DDPMWuerstchenScheduler(), latent_mean=1.0,
                            latent_std=0.0, resolution_multiple=8.0).save_pretrained(prior_folder)
    WuerstchenDecoderPipeline(tokenizers[1], texts[1], decoder.eval(), DDPMWuerstchenScheduler(), vqgan.eval(),
                              latent_dim_scale=SIZE / 16).save_pretrained(decoder_folder)


@lru_cache(maxsize=1)
def random_wuerstchen_model() -> LoadedModel:
    """Return the random-weight model of Wuerstchen's shape, loaded once per process."""
    return load_model(random_wuerstchen_config())
