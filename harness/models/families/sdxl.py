"""Stable Diffusion XL: two CLIP text encoders, pooled embeddings, and the U-Net is conditioned on image sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness.models.families.base import Family

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


class StableDiffusionXL(Family):
    """Its VAE overflows in float16; the stock pipeline decodes in float32 where the VAE's config asks for it."""

    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    siblings: ClassVar[tuple[str, ...]] = ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
    unlike: ClassVar[str] = "it has two text encoders and a different U-Net"
    parts: ClassVar[tuple[str, ...]] = (
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae",
    )  # fmt: skip
    upcasts_vae: ClassVar[bool] = True
    without: ClassVar[Mapping[str, Any]] = {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}

    def encode(self, model: LoadedModel, text: str) -> tuple[Tensor, Tensor | None]:
        encoded = model.pipe.encode_prompt(text, device=model.device, do_classifier_free_guidance=False)
        embeds, _, pooled, _ = encoded
        return embeds[0], pooled[0]
