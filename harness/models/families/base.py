"""What a model family defines for the engine. The defaults are those of Stable Diffusion 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Generator, Tensor

    from harness.models.conditions import Condition, EmbedBundle, ExtraRow
    from harness.models.loaded import LoadedModel
    from harness.records import GenerationSettings, ImageItem

FLOW_MATCHING = "its transformer has no such parts and predicts a velocity (flow matching)"


@dataclass(frozen=True)
class DenoiserCall:
    """What a pipeline tells its denoiser, by one set of names.

    `embeds` (R, L, D), `pooled` (R, P) and each of `per_row` have a row for every row of `sample`; so has `timestep`
    where it is a vector. `shared` is passed on as it is.
    """

    sample: Tensor
    timestep: Any
    embeds: Tensor
    pooled: Tensor | None
    per_row: Mapping[str, Tensor]
    shared: Mapping[str, Any]

    def widened(self, rows: Sequence[ExtraRow], n: int, cond: int) -> DenoiserCall:
        """Append a block of n images for each of `rows`: latents and whatever else a row has are those of the images.

        `cond` is where the conditional block begins; its pooled embeddings serve where a row brings none.
        """
        import torch

        if not rows:
            return self
        texts = [row.embeds.to(self.embeds.dtype).expand(n, *row.embeds.shape[-2:]) for row in rows]
        more, conditional = len(rows), slice(cond, cond + n)
        return replace(
            self,
            sample=torch.cat([self.sample, *[self.sample[:n]] * more]),
            timestep=self._wider_timestep(more, n),
            embeds=torch.cat([self.embeds, *texts]),
            pooled=None if self.pooled is None
            else torch.cat([self.pooled, *_pooled_rows(self.pooled[conditional], rows)]),
            per_row={key: torch.cat([value, *[value[conditional]] * more]) for key, value in self.per_row.items()},
        )

    def _wider_timestep(self, more: int, n: int) -> Any:
        import torch

        t = self.timestep
        if torch.is_tensor(t) and t.ndim and t.shape[0] == len(self.sample):
            return torch.cat([t, *[t[:n]] * more])
        return t


def _pooled_rows(cond: Tensor, rows: Sequence[ExtraRow]) -> Iterator[Tensor]:
    for row in rows:
        yield cond if row.pooled is None else row.pooled.to(cond.dtype).expand(len(cond), *cond.shape[1:])


@dataclass(frozen=True)
class Batch:
    """One pipeline call: `noise` (B, C, h, w) float32 on the CPU, and the generators that drew it, one per image."""

    items: Sequence[ImageItem]
    bundle: EmbedBundle
    noise: Tensor
    generators: Sequence[Generator]
    settings: GenerationSettings


class Family:
    """Stable Diffusion 1 and 2: one CLIP text encoder, a U-Net told latents, a timestep and a text sequence.

    A subclass overrides what differs. `pipe` is the pipeline whose denoiser is hooked.
    """

    pipeline: ClassVar[str] = "StableDiffusionPipeline"  # its class in diffusers
    aliases: ClassVar[tuple[str, ...]] = ()  # other pipelines that read the same files
    text_width: ClassVar[int | None] = None  # of its text encoder, which tells families of one pipeline apart
    mirrors: ClassVar[Mapping[str, str]] = {}  # repositories that are gone, and the copies that people use instead
    unlike: ClassVar[str] = ""  # why what is written for other families does not fit it
    decoder: ClassVar[str | None] = None  # the class of a second pipeline, which makes images of what the first draws
    one_row_because: ClassVar[str] = "it is guidance-distilled"  # said where it has no unconditional branch
    modules: ClassVar[tuple[str, ...]] = ()  # where classes of its parts are, beside diffusers and transformers
    parts: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer", "vae")  # needed beside its denoiser
    part: ClassVar[str] = "unet"  # the attribute, and folder, of its denoiser
    roles: ClassVar[tuple[str, ...]] = ("uncond", "cond")  # order of the pipeline's rows under guidance
    prediction: ClassVar[str | None] = None  # null: as its scheduler says
    upcasts_vae: ClassVar[bool] = False  # the stock pipeline decodes a float16 VAE that asks for it in float32
    t_unit: ClassVar[float] = 1  # training steps per unit of the timestep that the denoiser gets
    own_scheduler: ClassVar[bool] = False  # it samples only with the pipeline's own scheduler
    plain_calls: ClassVar[bool] = True  # its pipeline makes images of prompts by itself
    siblings: ClassVar[tuple[str, ...]] = (  # pipelines of its parts that begin at an image, with the same denoiser
        "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    )  # fmt: skip
    default_side: ClassVar[int | None] = None  # of its latents, where the denoiser's config says none
    without: ClassVar[Mapping[str, Any]] = {
        "feature_extractor": None, "safety_checker": None, "requires_safety_checker": False,
    }  # fmt: skip

    @property
    def has_negative_branch(self) -> bool:
        """Return whether the pipeline runs an unconditional row beside the conditional one."""
        return "uncond" in self.roles

    @property
    def has_latent_unet(self) -> bool:
        """Say whether its denoiser is a U-Net on the latents of a VAE."""
        return self.part == "unet" and "vae" in self.parts

    def fit_scheduler(self, scheduler: Any) -> None:
        """Set what a scheduler that the user chose must know of the family."""
    def load(
        self, pipeline: str, folder: Path, dtype: torch.dtype, variant: str | None, without: Sequence[str] = ()
    ) -> Any:
        """Load the pipeline of this class from a local folder, from safetensors files only; `without`: parts unused."""
        import diffusers

        return getattr(diffusers, pipeline).from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, variant=variant,
            **{**self.without, **dict.fromkeys(without)})  # fmt: skip

    def calls(self, scheduler: Any) -> int:
        """Return how many denoiser calls the scheduler's steps make."""
        return len(scheduler.timesteps)

    def calls_before(self, scheduler: Any, timestep: Any) -> int:
        """Return which of the scheduler's calls is the first of a pipeline, 0 unless it begins at an image."""
        import torch

        times = torch.as_tensor(scheduler.timesteps).double().cpu()
        first = torch.as_tensor(timestep).flatten()[0].double().cpu() * self.t_unit
        return int((times - first).abs().argmin())

    def encode(self, model: LoadedModel, text: str) -> tuple[Tensor, Tensor | None]:
        """Return the sequence (L, D) of one text and, where the family has one, its pooled vector (P,)."""
        embeds, _ = model.pipe.encode_prompt(text, model.device, 1, do_classifier_free_guidance=False)
        return embeds[0], None

    def text_limits(self, model: LoadedModel) -> list[tuple[Any, int]]:
        """Return each tokenizer with the number of tokens after which it cuts."""
        both = (model.pipe.tokenizer, getattr(model.pipe, "tokenizer_2", None))
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in both if tokenizer is not None]

    def predict(self, model: LoadedModel, z: Tensor, t: Tensor, texts: Condition) -> Tensor:
        """Run the denoiser outside of a pipeline on `z` (B, C, H, W), told `texts` (B rows); return its prediction."""
        from harness.models.conditions import denoiser_inputs

        out: Tensor = model.denoiser(z, t, **denoiser_inputs(model, z, texts), return_dict=False)[0]
        return out

    def taken(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DenoiserCall:
        """Take apart the arguments with which the pipeline calls its denoiser."""
        shared = dict(kwargs)
        sample, timestep = args
        added = dict(shared.pop("added_cond_kwargs", None) or {})
        embeds, pooled = shared.pop("encoder_hidden_states"), added.pop("text_embeds", None)
        return DenoiserCall(sample, timestep, embeds, pooled, added, shared)

    def guided(self, call: DenoiserCall, w: Tensor) -> DenoiserCall:
        """Return the call with each image's guidance scale (n,) told to the denoiser, where it reads one."""
        return call

    def run(self, forward: Any, call: DenoiserCall) -> Tensor:
        """Call the denoiser's own forward; return its prediction, a row for every row of the call."""
        added = dict(call.per_row) | ({} if call.pooled is None else {"text_embeds": call.pooled})
        out: Tensor = forward(call.sample, call.timestep, encoder_hidden_states=call.embeds, **call.shared,
                              **({"added_cond_kwargs": added} if added else {}))[0]
        return out

    def parted(self, prediction: Tensor, call: DenoiserCall) -> tuple[Tensor, Tensor | None]:
        """Split a prediction into what guidance edits, with the channels of the latents, and a learned variance."""
        return prediction, None

    def joined(self, prediction: Tensor, variance: Tensor | None) -> Tensor:
        """Undo `parted`; `variance` (B, C, h, w) is that of every row of the batch."""
        return prediction

    def answer(self, prediction: Tensor) -> Any:
        """Return a prediction as the pipeline expects it from its denoiser."""
        return (prediction,)

    def check_size(self, config: Mapping[str, Any], size: int | str) -> None:
        """Raise IncompatibleError if a model cannot draw images of a bench's size: pixels, or `row` for each own."""

    def noise_shape(self, model: LoadedModel, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the noise that an image of this size starts from."""
        factor = model.pipe.vae_scale_factor
        return model.denoiser.config.in_channels, height // factor, width // factor

    def draw(self, model: LoadedModel, batch: Batch) -> Tensor:
        """Run the hooked pipeline; return its latents."""
        settings = batch.settings
        latents: Tensor = model.pipe(
            **self.texts(batch.bundle), latents=self.start(model, batch.noise).to(model.device, model.dtype),
            generator=batch.generators, num_inference_steps=settings.num_inference_steps, height=settings.height,
            width=settings.width, guidance_scale=max(item.guidance_scale for item in batch.items), output_type="latent",
        ).images  # fmt: skip
        return latents

    def start(self, model: LoadedModel, noise: Tensor) -> Tensor:
        """Return noise (B, C, h, w) in the shape that the pipeline takes."""
        return noise

    def texts(self, bundle: EmbedBundle) -> dict[str, Tensor | None]:
        """Return the embeddings by the names of the pipeline's arguments."""
        pooled = {"pooled_prompt_embeds": bundle.pooled_cond, "negative_pooled_prompt_embeds": bundle.pooled_uncond}
        named = {"prompt_embeds": bundle.cond, "negative_prompt_embeds": bundle.uncond, **pooled}
        return {key: value for key, value in named.items() if value is not None}

    def decode(self, model: LoadedModel, latents: Tensor, batch: Batch) -> np.ndarray:
        """Return the images (B, H, W, 3) in [0, 1] of latents, decoded as the pipeline does in the VAE's precision."""
        pipe = model.pipe
        decoded = pipe.vae.decode(unscaled(latents, pipe.vae.config).to(pipe.vae.dtype), return_dict=False)[0]
        images: np.ndarray = pipe.image_processor.postprocess(decoded, output_type="np")
        return images


def unscaled(latents: Tensor, vae: Any) -> Tensor:
    """Return what a VAE decodes: latents divided by its scaling factor, and moved where its config says so.

    A VAE with a mean and a deviation of each channel takes these, as the stock SDXL pipeline has it.
    """
    mean, std = getattr(vae, "latents_mean", None), getattr(vae, "latents_std", None)
    if mean is not None and std is not None:
        mean, std = (latents.new_tensor(value).view(1, -1, 1, 1) for value in (mean, std))
        return latents * std / vae.scaling_factor + mean
    scaled = latents / vae.scaling_factor
    shift = getattr(vae, "shift_factor", None)
    return scaled if shift is None else scaled + shift
