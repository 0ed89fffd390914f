"""Images as the pages show them: scaled, decoded and encoded anew, never a file as it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageOps

from harness.lib.image_files import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = {"thumb": 256, "full": 1024}  # pixels of the longer side
_LOSSLESS = 128  # pixels up to which nothing is lost: too few to lose any
_QUALITY = {"thumb": 80, "full": 92}


def picture(folder: Path, file: str, kind: str) -> bytes | None:
    """Return the image of a cell as WebP, at most `SIZES[kind]` pixels wide and high; None if it cannot be read.

    A file that a link leads to out of the cell's folder is not read.
    """
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        with open_image(path) as opened:
            opened.draft("RGB", (SIZES[kind], SIZES[kind]))
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None
    image.thumbnail((SIZES[kind], SIZES[kind]))
    return _webp(image, kind)


def _webp(image: Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=max(image.size) <= _LOSSLESS, quality=_QUALITY[kind], method=2)
    return out.getvalue()
