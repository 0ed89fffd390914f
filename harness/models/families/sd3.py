"""Stable Diffusion 3 and 3.5: a transformer conditioned on two CLIP encoders and T5 jointly; flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness.models.families.base import FLOW_MATCHING, DenoiserCall, Family

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.conditions import Condition
    from harness.models.loaded import LoadedModel

T5_TOKENS = 256  # the stock pipeline's


class StableDiffusion3(Family):
    """A text is a sequence of CLIP's 77 positions, padded to T5's width, and T5's; pooled vectors are CLIP's."""

    pipeline: ClassVar[str] = "StableDiffusion3Pipeline"
    siblings: ClassVar[tuple[str, ...]] = ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")
    unlike: ClassVar[str] = FLOW_MATCHING
    parts: ClassVar[tuple[str, ...]] = (
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae",
    )  # fmt: skip
    part: ClassVar[str] = "transformer"
    prediction: ClassVar[str | None] = "flow"
    own_scheduler: ClassVar[bool] = True
    without: ClassVar[Mapping[str, Any]] = {"image_encoder": None, "feature_extractor": None}

    def encode(self, model: LoadedModel, text: str) -> tuple[Tensor, Tensor | None]:
        embeds, _, pooled, _ = model.pipe.encode_prompt(
            text, None, None, device=model.device, do_classifier_free_guidance=False,
            max_sequence_length=_t5_tokens(model))  # fmt: skip
        return embeds[0], pooled[0]

    def text_limits(self, model: LoadedModel) -> list[tuple[Any, int]]:
        t5 = model.pipe.tokenizer_3
        return super().text_limits(model) + ([(t5, _t5_tokens(model))] if t5 is not None else [])

    def predict(self, model: LoadedModel, z: Tensor, t: Tensor, texts: Condition) -> Tensor:
        out: Tensor = model.denoiser(hidden_states=z, timestep=t.expand(len(z)), encoder_hidden_states=texts.embeds,
                                     pooled_projections=texts.pooled, return_dict=False)[0]
        return out

    def taken(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DenoiserCall:
        shared = dict(kwargs)
        sample, timestep = shared.pop("hidden_states"), shared.pop("timestep")
        embeds, pooled = shared.pop("encoder_hidden_states"), shared.pop("pooled_projections")
        return DenoiserCall(sample, timestep, embeds, pooled, {}, shared)

    def run(self, forward: Any, call: DenoiserCall) -> Tensor:
        out: Tensor = forward(hidden_states=call.sample, timestep=call.timestep, encoder_hidden_states=call.embeds,
                              pooled_projections=call.pooled, **call.per_row, **call.shared)[0]
        return out


def _t5_tokens(model: LoadedModel) -> int:
    return int(model.config.get("max_sequence_length") or T5_TOKENS)
