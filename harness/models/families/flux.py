"""Flux: a guidance-distilled transformer conditioned on T5's sequence and CLIP's pooled vector; flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import IncompatibleError
from harness.models.families.base import FLOW_MATCHING, Batch, DenoiserCall, Family

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harness.models.conditions import Condition, EmbedBundle
    from harness.models.loaded import LoadedModel

T5_TOKENS = 512  # the stock pipeline's


class Flux(Family):
    """One row per image: there is no unconditional branch to guide by. The dev model reads each image's scale instead.

    Its latents are 2 x 2 patches in a row (B, h w / 4, 4 C).
    """

    pipeline: ClassVar[str] = "FluxPipeline"
    siblings: ClassVar[tuple[str, ...]] = ("FluxImg2ImgPipeline", "FluxInpaintPipeline")
    unlike: ClassVar[str] = f"{FLOW_MATCHING}, with guidance distilled into it"
    parts: ClassVar[tuple[str, ...]] = (
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae",
    )  # fmt: skip
    part: ClassVar[str] = "transformer"
    roles: ClassVar[tuple[str, ...]] = ("cond",)
    prediction: ClassVar[str | None] = "flow"
    own_scheduler: ClassVar[bool] = True
    default_side: ClassVar[int | None] = 128
    t_unit: ClassVar[float] = 1000.0
    without: ClassVar[Mapping[str, Any]] = {"image_encoder": None, "feature_extractor": None}

    def encode(self, model: LoadedModel, text: str) -> tuple[Tensor, Tensor | None]:
        embeds, pooled, _ = model.pipe.encode_prompt(text, None, device=model.device,
                                                     max_sequence_length=_t5_tokens(model))
        return embeds[0], pooled[0]

    def text_limits(self, model: LoadedModel) -> list[tuple[Any, int]]:
        pipe = model.pipe
        return [(pipe.tokenizer, pipe.tokenizer.model_max_length), (pipe.tokenizer_2, _t5_tokens(model))]

    def predict(self, model: LoadedModel, z: Tensor, t: Tensor, texts: Condition) -> Tensor:
        raise IncompatibleError(f"model {model.config.get('name')} is flux, which runs in its pipeline only.")

    def taken(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DenoiserCall:
        shared = dict(kwargs)
        sample, t = shared.pop("hidden_states"), shared.pop("timestep")
        embeds, pooled = shared.pop("encoder_hidden_states"), shared.pop("pooled_projections")
        guidance = shared.pop("guidance", None)
        return DenoiserCall(sample, t, embeds, pooled, {} if guidance is None else {"guidance": guidance}, shared)

    def guided(self, call: DenoiserCall, w: Tensor) -> DenoiserCall:
        return replace(call, per_row={"guidance": w}) if "guidance" in call.per_row else call

    def run(self, forward: Any, call: DenoiserCall) -> Tensor:
        out: Tensor = forward(
            hidden_states=call.sample, timestep=call.timestep, pooled_projections=call.pooled,
            encoder_hidden_states=call.embeds, **{"guidance": None, **call.per_row}, **call.shared)[0]  # fmt: skip
        return out

    def noise_shape(self, model: LoadedModel, height: int, width: int) -> tuple[int, int, int]:
        patch = 2 * model.pipe.vae_scale_factor
        return model.denoiser.config.in_channels // 4, 2 * (height // patch), 2 * (width // patch)

    def start(self, model: LoadedModel, noise: Tensor) -> Tensor:
        packed: Tensor = model.pipe._pack_latents(noise, *noise.shape)
        return packed

    def texts(self, bundle: EmbedBundle) -> dict[str, Tensor | None]:
        return {"prompt_embeds": bundle.cond, "pooled_prompt_embeds": bundle.pooled_cond}

    def decode(self, model: LoadedModel, latents: Tensor, batch: Batch) -> np.ndarray:
        pipe, settings = model.pipe, batch.settings
        unpacked = pipe._unpack_latents(latents, settings.height, settings.width, pipe.vae_scale_factor)
        return super().decode(model, unpacked, batch)


def _t5_tokens(model: LoadedModel) -> int:
    return int(model.config.get("max_sequence_length") or T5_TOKENS)
