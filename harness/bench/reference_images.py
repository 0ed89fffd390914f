"""Real images as a reference set: those that a bench's prompts describe, found in a folder by prompt id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from harness.bench.references import ReferenceImages
from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.image_files import open_image
from harness.setting_types import FilePath, Text


@dataclass(frozen=True)
class ImagesOfPrompts(ReferenceImages):
    """The image of every prompt of a list, as `centre_square` makes them.

    `pattern` names the file of an id, such as `COCO_val2014_{id:012d}.jpg`; `ids` holds one id per line, None if the
    prompts are not on this machine.
    """

    name: str
    pattern: Text
    folder: FilePath
    side: Annotated[int, Ge(8), Le(8192)] = 512
    ids: str | None = None
    how_to_get: str = ""

    @property
    def transform(self) -> str:
        return f"short side {self.side} antialiased bicubic, centre crop {self.side}"

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Return the file names, sorted, each once. Raises InvalidValueError for an id that the pattern cannot take."""
        return tuple(sorted({self._file(name) for name in (self.ids or "").split()}))

    def _file(self, name: str) -> str:
        try:
            return self.pattern.format(id=int(name) if name.isdecimal() else name)
        except (ValueError, KeyError, IndexError):
            raise InvalidValueError(f"{self.name}: {self.pattern} gives no file name for id '{name[:40]}'.") from None

    @property
    def list_sha256(self) -> str:
        """Return the hash of the list: of its file names, one per line."""
        return hashlib.sha256("\n".join(self.files).encode()).hexdigest()

    @property
    def label(self) -> str:
        """Name the set for a metric's note."""
        return f"{self.name}, {len(self.files)} images of list {self.list_sha256[:12]}, {self.transform};"

    def identity(self) -> Mapping[str, Any]:
        """Return what changes the statistics: list, number and transform, but not the folder."""
        return {"list_sha256": self.list_sha256, "n": len(self.files), "transform": self.transform}

    def missing(self) -> str | None:
        """Say in one line how many images are missing and how to get them; None if all are."""
        folder = self._folder
        if not folder.is_dir():
            return f"no folder with the images of {self.name} at {folder}. {self.how_to_get}".rstrip()
        here = {entry.name for entry in os.scandir(folder)}
        absent = [file for file in self.files if file not in here]
        if not absent:
            return None
        count = f"{len(absent)} of {len(self.files)} images of {self.name} are not in {folder}"
        return f"{count}, such as {absent[0]}. {self.how_to_get}".rstrip()

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """Yield (side, side, 3) uint8 images in the order of their file names. Raises MissingResourceError."""
        problem = self.missing()
        if problem:
            raise MissingResourceError(problem)
        for file in self.files:
            try:
                with open_image(self._folder / file) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise MissingResourceError(f"{self._folder / file} is not a readable image: {error}.") from error
            yield centre_square(pixels, self.side)

    @property
    def _folder(self) -> Path:
        return Path(self.folder).expanduser()


def centre_square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scale an (H, W, 3) image until its short side is `side`, and cut out the middle: (side, side, 3) uint8.

    PIL's bicubic, which is antialiased; lengths and offsets are rounded as torchvision's Resize and CenterCrop do.
    """
    from PIL import Image

    height, width = image.shape[:2]
    short = min(height, width)
    size = int(side * width / short), int(side * height / short)
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - side) / 2), round((size[0] - side) / 2)
    return scaled[top : top + side, left : left + side]
