"""DeepFloyd IF, a pixel cascade conditioned on T5. Methods act on stage 1, which determines the content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import IncompatibleError
from harness.models.families.base import Batch, DenoiserCall, Family

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor

    from harness.models.conditions import Condition
    from harness.models.loaded import LoadedModel

TEXT_TOKENS = 77  # of T5, as the stock pipeline cuts


class DeepFloydIF(Family):
    """The U-Net returns six channels: noise, which guidance edits, and a variance, which stays the text row's.

    Prompts are lowercased and stripped, and never cleaned further, whatever is installed: the stock pipeline's cleaning
    depends on two optional packages.
    """

    pipeline: ClassVar[str] = "IFPipeline"
    siblings: ClassVar[tuple[str, ...]] = ()
    unlike: ClassVar[str] = "it generates pixels in stages from T5"
    parts: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer")
    without: ClassVar[Mapping[str, Any]] = {
        "feature_extractor": None, "safety_checker": None, "requires_safety_checker": False, "watermarker": None,
    }  # fmt: skip

    def load(
        self, pipeline: str, folder: Path, dtype: torch.dtype, variant: str | None, without: Sequence[str] = ()
    ) -> Any:
        """Load the pipeline of a stage, which has some of the parts that none of them uses."""
        import diffusers

        kind = getattr(diffusers, pipeline)
        unused = {**self.without, **dict.fromkeys(without)}
        taken = {name: value for name, value in unused.items() if name in signature(kind.__init__).parameters}
        return kind.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True,
                                    variant=variant, **taken)

    def fit_scheduler(self, scheduler: Any) -> None:
        """Tell a scheduler that learns no variance so: the pipeline then drops the U-Net's variance channels."""
        import diffusers

        if not isinstance(scheduler, (diffusers.DDPMScheduler, diffusers.DPMSolverMultistepScheduler)):
            scheduler.register_to_config(variance_type="fixed_small")

    def encode(self, model: LoadedModel, text: str) -> tuple[Tensor, Tensor | None]:
        embeds, _ = model.pipe.encode_prompt(text, do_classifier_free_guidance=False, device=model.device,
                                             clean_caption=False)
        return embeds[0], None

    def text_limits(self, model: LoadedModel) -> list[tuple[Any, int]]:
        return [(model.pipe.tokenizer, TEXT_TOKENS)]

    def predict(self, model: LoadedModel, z: Tensor, t: Tensor, texts: Condition) -> Tensor:
        return super().predict(model, z, t, texts)[:, : z.shape[1]]

    def parted(self, prediction: Tensor, call: DenoiserCall) -> tuple[Tensor, Tensor | None]:
        channels = call.sample.shape[1]
        return prediction[:, :channels], prediction[:, channels:]

    def joined(self, prediction: Tensor, variance: Tensor | None) -> Tensor:
        import torch

        assert variance is not None
        return torch.cat([prediction, variance.repeat(len(prediction) // len(variance), 1, 1, 1)], dim=1)

    def check_size(self, config: Mapping[str, Any], size: int | str) -> None:
        if size != config["size"]:
            raise IncompatibleError(f"model {config.get('name')} generates {config['size']} x {config['size']} pixels "
                                    "at this stage, and no other size.",
                                    "Set bench.size=null, or choose model.stage=1 (64), 2 (256) or 3 (1024).")

    def noise_shape(self, model: LoadedModel, height: int, width: int) -> tuple[int, int, int]:
        config = model.denoiser.config
        return config.in_channels, config.sample_size, config.sample_size

    def draw(self, model: LoadedModel, batch: Batch) -> Tensor:
        """Run the first stage; return its pixels (B, 3, 64, 64) in [-1, 1]."""
        with _starting_from(model, batch.noise):
            pixels: Tensor = model.pipe(
                **self.texts(batch.bundle), generator=list(batch.generators), output_type="pt",
                num_inference_steps=batch.settings.num_inference_steps,
                guidance_scale=max(item.guidance_scale for item in batch.items),
            ).images  # fmt: skip
        return pixels

    def decode(self, model: LoadedModel, latents: Tensor, batch: Batch) -> np.ndarray:
        """Enlarge the first stage's pixels by the stages that are loaded; images continue with their own generators."""
        pixels = latents
        for pipe, stage in zip(model.later, model.config.get("stages") or (), strict=True):
            told = {"num_inference_steps": stage["num_inference_steps"], "noise_level": stage["noise_level"],
                    "guidance_scale": stage["guidance_scale"], "generator": list(batch.generators)}  # fmt: skip
            if hasattr(pipe, "vae"):
                return _upscaled(pipe, pixels, batch, told)
            pixels = pipe(image=pixels, **self.texts(batch.bundle), output_type="pt", **told).images
        images: np.ndarray = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return images


def _upscaled(pipe: Any, pixels: Tensor, batch: Batch, told: Mapping[str, Any]) -> np.ndarray:
    """Run Stable Diffusion's upscaler, whose texts are CLIP's; methods that edit embeddings do not reach it."""
    images: np.ndarray = pipe(
        prompt=[item.prompt for item in batch.items],
        negative_prompt=[item.negative_prompt or "" for item in batch.items],
        image=(pixels / 2 + 0.5).clamp(0, 1).to(pipe.unet.dtype), output_type="np", **told,
    ).images  # fmt: skip
    return images


@contextmanager
def _starting_from(model: LoadedModel, noise: Tensor) -> Iterator[None]:
    """Let the pipeline, which takes no latents, start from this noise (B, 3, h, w)."""
    pipe = model.pipe
    start = noise.to(model.device, model.dtype) * pipe.scheduler.init_noise_sigma
    pipe.prepare_intermediate_images = lambda *args, **kwargs: start
    try:
        yield
    finally:
        del pipe.prepare_intermediate_images
