"""Images that a model makes for its own training: drawn as a run would draw them, nothing kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.errors import HarnessError
from harness.generate import attached
from harness.method import Method
from harness.records import ImageItem, ImageKey
from harness.tasks import GenerationSettings

if TYPE_CHECKING:
    import numpy as np

    from harness.models import LoadedModel


@dataclass(frozen=True)
class Wish:
    """One image to make."""

    prompt: str
    seed: int
    negative_prompt: str = ""


class _Bare(Method):
    """Changes nothing; a session needs one method."""

    name = "bare"
    kind: ClassVar[str] = "bare"


def own_images(model: LoadedModel, wishes: Sequence[Wish], steps: int, guidance_scale: float,
               progress: Callable[[int, int], None]) -> list[np.ndarray]:
    """Draw each wish with the model as it now is, methods that edit weights included: (H, W, 3) uint8.

    Raises HarnessError where an image is not finite.
    """
    batch = int(model.config.get("batch_size") or 8)
    side = image_size(model)
    settings = GenerationSettings(num_inference_steps=steps, height=side, width=side, batch_size=batch)
    items = [ImageItem(ImageKey(f"own-{index}", 0), wish.prompt, wish.seed, guidance_scale,
                       negative_prompt=wish.negative_prompt or None) for index, wish in enumerate(wishes)]
    images: list[np.ndarray] = []
    with attached(model, [_Bare()], [None]) as session:
        for start in range(0, len(items), batch):
            for made in session.generate(items[start : start + batch], settings):
                if made.image is None:
                    raise HarnessError(f"training image {len(images)} of {len(items)} is not finite.")
                images.append(made.image)
            progress(len(images), len(items))
    return images


def image_size(model: LoadedModel) -> int:
    """Return the side of the model's images in pixels: as configured, else what its networks were made for."""
    return int(model.config.get("size") or model.denoiser.config.sample_size * model.pipe.vae_scale_factor)
