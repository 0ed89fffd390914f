"""Image files that others may have written: of known formats, and never more pixels than a machine can hold."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # JPEG opens MPO, too
MAX_PIXELS = 8192 * 8192  # as many as the largest image that the harness makes


@contextmanager
def opened(file: str | Path) -> Iterator[Image]:
    """Open an image file without decoding it. Raises OSError or ValueError, for what has too many pixels as well."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
        try:
            picture = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError:
            raise ValueError(f"it has more than {MAX_PIXELS} pixels") from None
    with picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"its {width} x {height} pixels are more than {MAX_PIXELS}")
        yield picture
