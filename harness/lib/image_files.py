"""Image files from elsewhere: opened with limits on format and size; what a folder has, and what of it is not read."""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # JPEG opens MPO, too
MAX_PIXELS = 8192 * 8192  # as many as the largest image that the harness makes
READ = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
OTHERS = frozenset({".avif", ".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw", ".exr",
                    ".hdr", ".tga", ".ppm", ".ico", ".npy"})  # fmt: skip


@contextmanager
def open_image(file: str | Path) -> Iterator[Image]:
    """Open an image file without decoding it. Raises OSError or ValueError, also if it has too many pixels."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError:
            raise ValueError(f"it has more than {MAX_PIXELS} pixels") from None
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"its {width} x {height} pixels are more than {MAX_PIXELS}")
        yield image


@dataclass(frozen=True)
class ImageFolder:
    """What a folder and its subfolders hold: images in the order of their names, how many of which other kinds.

    Links that lead out of the folder are not followed; `n_links` counts them. Hidden files and folders are none.
    """

    folder: Path
    images: tuple[Path, ...]
    others: Mapping[str, int]
    n_links: int

    @cached_property
    def _by_name(self) -> Mapping[str, Path]:
        return {_composed(path.relative_to(self.folder).as_posix()): path for path in self.images}

    def named(self, text: str) -> Path | None:
        """Return the image that a text names below the folder, whichever way accents and slashes are written."""
        text = text.strip().replace("\\", "/")
        inside = text.removeprefix(f"{self.folder.as_posix()}/")
        return self._by_name.get(_composed(PurePosixPath(inside).as_posix()))

    def notes(self) -> list[str]:
        """Say what is not read."""
        notes = []
        if self.others:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.others.items()))
            notes.append(f"{sum(self.others.values())} files have unsupported formats ({kinds}) and are not judged: "
                         "save them as PNG")
        if self.n_links:
            notes.append(f"{self.n_links} links out of {self.folder} are not followed: copy the files there")
        return notes


def image_folder(folder: Path, follow_links: bool = False) -> ImageFolder:
    """Look through a folder and its subfolders. Opens no file. `follow_links`: also out of the folder."""
    root, images, others, n_links = folder.resolve(), [], Counter[str](), 0
    for path in _visible(folder):
        if not follow_links and path.is_symlink() and not path.resolve().is_relative_to(root):
            n_links += 1
        elif path.suffix.lower() in READ and path.is_file():
            images.append(path)
        elif path.suffix.lower() in OTHERS and path.is_file():
            others[path.suffix.lower()] += 1
    return ImageFolder(folder, tuple(images), dict(others), n_links)


def named_file(folder: Path, text: str) -> Path:
    """Return the file that a text names below a folder, whichever way accents and slashes are written.

    Where there is none, it is the path as it is written.
    """
    text = text.strip()
    forms = [unicodedata.normalize(form, text.replace("\\", "/")) for form in ("NFC", "NFD")]
    return next((folder / form for form in (text, *forms) if (folder / form).is_file()), folder / text)


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*"))
            if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
