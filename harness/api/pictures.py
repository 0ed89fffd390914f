"""Images as people hold them in Python, as evaluators see them: (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import InvalidValueError
from harness.evaluators.scoring import pixels_of, read_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    Picture = Image | str | Path | np.ndarray | Tensor
else:
    Picture = Any

FORMS = "PIL images, paths, arrays (H, W, 3) or tensors (3, H, W), in uint8 or from 0 to 1"


def listed(images: Any) -> list[Any]:
    """Return images one by one: of a list, of a batch (N, H, W, 3) or (N, 3, H, W), or a single one."""
    if isinstance(images, (str, Path)) or _is_pil(images):
        return [images]
    if hasattr(images, "ndim"):
        return list(images) if images.ndim == 4 else [images]
    if not isinstance(images, Sequence):
        raise InvalidValueError(f"images={str(images)[:80]}: expected {FORMS}, or a list of them.")
    return list(images)


def check_form(image: Any) -> None:
    """Raise InvalidValueError for what is no image in any form."""
    if not (isinstance(image, (str, Path)) or _is_pil(image) or hasattr(image, "ndim")):
        raise InvalidValueError(f"an image is a {type(image).__name__}: expected {FORMS}.")


def pixels(image: Any, upright: bool) -> np.ndarray:
    """Return an image as (H, W, 3) uint8, `upright` as its EXIF orientation says. Raises OSError or ValueError."""
    if isinstance(image, (str, Path)):
        return read_image(image, upright)
    if _is_pil(image):
        return pixels_of(image, upright)
    if isinstance(image, np.ndarray):
        return _grey_levels(image)
    array = image.detach().float().cpu().numpy() if image.is_floating_point() else image.detach().cpu().numpy()
    return _grey_levels(np.moveaxis(array, 0, -1) if array.ndim == 3 else array)


def _is_pil(image: Any) -> bool:
    from PIL.Image import Image as PIL

    return isinstance(image, PIL)


def _grey_levels(array: np.ndarray) -> np.ndarray:
    """Return an array (H, W), (H, W, 1) or (H, W, 3) in grey levels; what is no number stays, for who looks at it."""
    shape = array.shape
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"an array of shape {shape} is no RGB image")
    whole = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array
    if whole.dtype == np.uint8:
        return np.ascontiguousarray(whole)
    if whole.dtype.kind != "f":
        raise ValueError(f"an array of {whole.dtype} is no image: uint8, or floats from 0 to 1")
    if not np.isfinite(whole).all():
        return whole
    if whole.min() < -1e-6 or whole.max() > 1 + 1e-6:
        raise ValueError(f"values from {whole.min():.3g} to {whole.max():.3g} are no image: floats are from 0 to 1")
    return (whole.clip(0, 1) * 255).round().astype(np.uint8)
