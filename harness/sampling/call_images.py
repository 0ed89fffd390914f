"""What a plain call of a pipeline returns: images in the form that was asked for, those that are withheld black."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from harness.errors import IncompatibleError

FLAGS = ("nsfw_content_detected", "nsfw_detected")  # fields of diffusers' outputs: what was found in an image


@dataclass(frozen=True)
class Output:
    """A pipeline's answer: its fields by name, of which `images` is the first, and its class."""

    kind: Any
    values: Mapping[str, Any]

    @classmethod
    def of(cls, pipe: Any, answer: Any) -> Output:
        """Take an answer apart, be it a record or, after return_dict=False, a tuple."""
        kind = output_class(pipe)
        names = [field.name for field in fields(kind)]
        if isinstance(answer, tuple):
            return cls(kind, dict(zip(names, answer, strict=False)))
        return cls(kind, {name: getattr(answer, name) for name in names})

    @classmethod
    def black(cls, pipe: Any, count: int, height: int, width: int, output_type: str) -> Output:
        """Return `count` black images, made without sampling."""
        kind = output_class(pipe)
        values = dict.fromkeys(field.name for field in fields(kind))
        return cls(kind, values | {"images": _black(count, height, width, output_type)})

    def arrays(self) -> list[np.ndarray]:
        """Return the images (H, W, 3) uint8."""
        images = self.values["images"]
        if isinstance(images, list):
            return [np.asarray(image.convert("RGB")) for image in images]
        pixels = images if isinstance(images, np.ndarray) else images.permute(0, 2, 3, 1).float().cpu().numpy()
        return list((pixels * 255).round().astype(np.uint8))

    def replaced(self, changed: Mapping[int, np.ndarray], refusals: Sequence[str | None]) -> Output:
        """Return it with some images (H, W, 3) uint8 replaced by index, and those that were refused flagged."""
        values = dict(self.values)
        if changed:
            values["images"] = _replaced(values["images"], changed)
        for name in (name for name in FLAGS if name in values and any(refusals)):
            before = values[name] or [False] * len(refusals)
            values[name] = [bool(flag or refusal) for flag, refusal in zip(before, refusals, strict=True)]
        return Output(self.kind, values)

    def answer(self, as_record: bool, refusals: Sequence[str | None]) -> Any:
        """Return it as the pipeline does; a record says as `refusals` why an image is withheld."""
        if not as_record:
            return tuple(self.values.values())
        record = self.kind(**self.values)
        record.refusals = list(refusals)
        return record


def output_class(pipe: Any) -> Any:
    """Return the class of a diffusers pipeline's answers, which its module names after it."""
    from diffusers.utils import BaseOutput

    module = vars(sys.modules[type(pipe).__module__])
    return next(kind for name, kind in module.items()
                if name.endswith("PipelineOutput") and isinstance(kind, type) and issubclass(kind, BaseOutput))


def check_output(output_type: str, has_vae: bool, why: str) -> None:
    """Raise IncompatibleError where images are returned in a form in which none can be looked at or withheld."""
    if output_type == "latent" or (output_type == "pt" and not has_vae):
        raise IncompatibleError(f"{why}, which output_type='{output_type}' does not allow.", "Use output_type='pil'.")


def _black(count: int, height: int, width: int, output_type: str) -> Any:
    from PIL import Image

    if output_type == "pil":
        return [Image.new("RGB", (width, height)) for _ in range(count)]
    if output_type == "pt":
        import torch

        return torch.zeros(count, 3, height, width)
    return np.zeros((count, height, width, 3), np.float32)


def _replaced(images: Any, changed: Mapping[int, np.ndarray]) -> Any:
    from PIL import Image

    if isinstance(images, list):
        return [Image.fromarray(changed[index]) if index in changed else image for index, image in enumerate(images)]
    copied = images.copy() if isinstance(images, np.ndarray) else images.clone()
    for index, pixels in changed.items():
        if isinstance(copied, np.ndarray):
            copied[index] = pixels / 255
        else:
            copied[index] = copied.new_tensor(pixels / 255).permute(2, 0, 1)
    return copied
