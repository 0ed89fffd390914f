"""Images that a model generates for its own training: as in a run, but not stored on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.errors import HarnessError
from harness.method import Method
from harness.records import GenerationSettings, ImageItem, ImageKey
from harness.sampling.batches import is_out_of_memory
from harness.sampling.session import attached
from harness.training.prompts import check_drawable

if TYPE_CHECKING:
    import numpy as np

    from harness.models.loaded import LoadedModel
    from harness.sampling.session import Generated, Session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingImage:
    """One image to generate, for a training."""

    prompt: str
    seed: int
    negative_prompt: str = ""


@dataclass(frozen=True)
class _Bare(Method):
    """Changes nothing; a session needs one method."""

    name: str = "bare"
    kind: ClassVar[str] = "bare"


def generate_images(model: LoadedModel, wanted: Sequence[TrainingImage], steps: int, guidance_scale: float,
                    progress: Callable[[int, int], None]) -> list[np.ndarray]:
    """Generate each image with the model as it now is, methods that edit weights included: (H, W, 3) uint8.

    Batches are halved when memory runs out. Raises HarnessError if an image is not finite.
    """
    check_drawable("training images", (image.prompt for image in wanted))
    batch = int(model.config.get("batch_size") or 8)
    side = image_size(model)
    settings = GenerationSettings(num_inference_steps=steps, height=side, width=side, batch_size=batch)
    items = [ImageItem(ImageKey(f"own-{index}", 0), image.prompt, image.seed, guidance_scale,
                       negative_prompt=image.negative_prompt or None) for index, image in enumerate(wanted)]
    images: list[np.ndarray] = []
    with attached(model, [_Bare()], [None]) as session:
        while len(images) < len(items):
            part = items[len(images) : len(images) + batch]
            generated = _generated(session, part, settings)
            if generated is None:
                batch = len(part) // 2
                log.warning("out of memory at %d training images per batch, continuing with %d", len(part), batch)
                continue
            for made in generated:
                if made.image is None:
                    raise HarnessError(f"training image {len(images)} of {len(items)} is not finite.")
                images.append(made.image)
            progress(len(images), len(items))
    return images


def _generated(session: Session, part: list[ImageItem], settings: GenerationSettings) -> Sequence[Generated] | None:
    """Return the images of a batch, None if memory ran out and fewer can be tried."""
    try:
        return session.generate(part, settings)
    except Exception as error:  # a kernel can raise anything
        if not is_out_of_memory(error) or len(part) == 1:
            raise
    # Outside of the handler, so that the traceback no longer holds the tensors.
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def image_size(model: LoadedModel) -> int:
    """Return the side of the model's images in pixels: as configured, else what its networks were made for."""
    return int(model.config.get("size") or model.denoiser.config.sample_size * model.pipe.vae_scale_factor)
