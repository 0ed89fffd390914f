"""Wuerstchen: a prior generates image embeddings from a text, a decoder the image from them.

The hook is on the prior, where the text decides what is drawn; the decoder runs unguided, as the stock pipeline has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from harness.lib.reading import read_json
from harness.models.families.base import Batch, DenoiserCall, Family

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor

    from harness.models.conditions import Condition
    from harness.models.loaded import LoadedModel

_NUMBERS = ("latent_mean", "latent_std", "resolution_multiple", "latent_dim_scale")  # of a pipeline's own config
DECODER_STEPS = 12  # the stock pipeline's


class Wuerstchen(Family):
    """Its rows are stacked the other way round, its timestep falls from 1 to 0, and it predicts noise.

    Noise of every kind is drawn by the image's own generator: where the prior starts, in each of its steps, where the
    decoder starts, and in each of its steps, in this order.
    """

    pipeline: ClassVar[str] = "WuerstchenPriorPipeline"
    unlike: ClassVar[str] = "its text goes into a prior of image embeddings, which has no U-Net"
    decoder: ClassVar[str | None] = "WuerstchenDecoderPipeline"
    modules: ClassVar[tuple[str, ...]] = ("diffusers.pipelines.deprecated.wuerstchen",)
    parts: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer")
    part: ClassVar[str] = "prior"
    roles: ClassVar[tuple[str, ...]] = ("cond", "uncond")
    prediction: ClassVar[str | None] = "epsilon"
    own_scheduler: ClassVar[bool] = True
    plain_calls: ClassVar[bool] = False
    siblings: ClassVar[tuple[str, ...]] = ()

    def load(
        self, pipeline: str, folder: Path, dtype: torch.dtype, variant: str | None, without: Sequence[str] = ()
    ) -> Any:
        """Put the pipeline together from its parts: diffusers 0.42 no longer finds their classes by its index."""
        import diffusers
        from diffusers.pipelines.deprecated import wuerstchen
        from transformers import CLIPTextModel, CLIPTokenizer

        index = read_json(folder / "model_index.json") or {}
        networks = {"text_encoder": CLIPTextModel, "prior": wuerstchen.WuerstchenPrior,
                    "decoder": wuerstchen.WuerstchenDiffNeXt, "vqgan": wuerstchen.PaellaVQModel}
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "variant": variant}
        parts = {name: kind.from_pretrained(folder / name, **options).to(dtype) for name, kind in networks.items()
                 if name in index}
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        scheduler = diffusers.DDPMWuerstchenScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        numbers = {name: index[name] for name in _NUMBERS if name in index}
        return getattr(diffusers, pipeline)(tokenizer=tokenizer, scheduler=scheduler, **parts, **numbers)

    def calls(self, scheduler: Any) -> int:
        return len(scheduler.timesteps) - 1  # the last one is where the trajectory ends

    def encode(self, model: LoadedModel, text: str) -> tuple[Tensor, Tensor | None]:
        embeds, _ = model.pipe.encode_prompt(model.device, 1, False, prompt=text)
        return embeds[0], None

    def predict(self, model: LoadedModel, z: Tensor, t: Tensor, texts: Condition) -> Tensor:
        out: Tensor = model.denoiser(z, r=t.to(z.dtype).expand(len(z)), c=texts.embeds)
        return out

    def taken(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DenoiserCall:
        (sample,) = args
        return DenoiserCall(sample, kwargs["r"], kwargs["c"], None, {}, {})

    def run(self, forward: Any, call: DenoiserCall) -> Tensor:
        out: Tensor = forward(call.sample, r=call.timestep, c=call.embeds)
        return out

    def answer(self, prediction: Tensor) -> Any:
        return prediction

    def noise_shape(self, model: LoadedModel, height: int, width: int) -> tuple[int, int, int]:
        unit = model.pipe.config.resolution_multiple
        return model.denoiser.config.c_in, ceil(height / unit), ceil(width / unit)

    def draw(self, model: LoadedModel, batch: Batch) -> Tensor:
        """Run the prior; return image embeddings."""
        settings, w = batch.settings, max(item.guidance_scale for item in batch.items)
        embeddings: Tensor = model.pipe(
            prompt_embeds=batch.bundle.cond, negative_prompt_embeds=batch.bundle.uncond if w > 1 else None,
            latents=batch.noise.to(model.device, model.dtype), generator=batch.generators, guidance_scale=w,
            num_inference_steps=settings.num_inference_steps, height=settings.height, width=settings.width,
        ).image_embeddings  # fmt: skip
        return embeddings

    def decode(self, model: LoadedModel, latents: Tensor, batch: Batch) -> np.ndarray:
        """Run the decoder on each image alone: the stock one repeats every text for every image of a batch."""
        import numpy as np

        (decoder,), (stage,) = model.later, model.config["stages"]
        steps = int(stage.get("num_inference_steps") or DECODER_STEPS)
        images = [
            decoder(embeddings[None], prompt=item.prompt, guidance_scale=0.0, generator=[generator],
                        num_inference_steps=steps, output_type="np").images
            for embeddings, item, generator in zip(latents, batch.items, batch.generators, strict=True)
        ]  # fmt: skip
        return np.concatenate(images)
