"""What people said about images: a CSV file with the columns image and label, or image and rank."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, overload

from harness.errors import InvalidValueError, MissingResourceError
from harness.evaluators.weights import sha256_of
from harness.training import prompt_file

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Pair:
    """Of two images, by index, which shows the concept more."""

    more: int
    less: int


@dataclass(frozen=True)
class Feedback:
    """Labels in [0, 1], 1 = shows the concept; or the pairs that rankings come to. The other one is empty."""

    labels: tuple[float, ...] = ()
    pairs: tuple[Pair, ...] = ()

    def check(self, source: str) -> Feedback:
        """Return itself. Raises InvalidValueError where nothing tells images apart."""
        if self.labels and len(set(self.labels)) == 1:
            raise InvalidValueError(f"{source}: all {len(self.labels)} labels are {self.labels[0]:g}; images with and "
                                    "without the concept are needed.")
        if not self.labels and not self.pairs:
            raise InvalidValueError(f"{source}: no two images of a group have different ranks.")
        return self


@dataclass(frozen=True)
class FeedbackFile:
    """A feedback file as read: the images' paths, and what is said of them."""

    images: tuple[Path, ...]
    feedback: Feedback


def read_feedback(path: str) -> FeedbackFile:
    """Read a feedback file. Image paths are relative to it; rank 1 shows the concept most, within `group` if given."""
    rows = _rows(path)
    folder = prompt_file(path).parent
    images = tuple(folder / row["image"] for row in rows)
    lost = [image for image in images if not image.is_file()]
    if lost:
        raise MissingResourceError(f"{path}: {len(lost)} of {len(images)} images are missing, such as {lost[0]}.")
    if "label" in rows[0]:
        labels = tuple(_number(path, index, row, "label", 1.0) for index, row in enumerate(rows))
        return FeedbackFile(images, Feedback(labels=labels).check(path))
    ranks = [_number(path, index, row, "rank", math.inf) for index, row in enumerate(rows)]
    groups = [row.get("group") or "" for row in rows]
    return FeedbackFile(images, Feedback(pairs=ranked_pairs(ranks, groups)).check(path))


def ranked_pairs(ranks: Sequence[float], groups: Sequence[str]) -> tuple[Pair, ...]:
    """Return every pair of images of one group whose ranks differ."""
    pairs = [(i, j) for i, j in combinations(range(len(ranks)), 2) if groups[i] == groups[j] and ranks[i] != ranks[j]]
    return tuple(Pair(i, j) if ranks[i] < ranks[j] else Pair(j, i) for i, j in pairs)


def feedback_hash(path: str) -> str:
    """Return one hash of a feedback file and its images, or "absent"."""
    file = prompt_file(path)
    if not file.is_file():
        return "absent"
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        names = [row.get("image") or "" for row in csv.DictReader(stream)]
    parts = [str(sha256_of(file)), *(str(sha256_of(file.parent / name)) for name in names)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def missing_feedback(path: str | None) -> str | None:
    """Return None when a feedback file is there, else one line."""
    columns = "a CSV file with the columns image and label (0 or 1), or image and rank"
    if path is None:
        return f"human feedback is missing. Give method.feedback={columns}; or use method=hfi_proxy."
    return None if prompt_file(path).is_file() else f"the feedback file {prompt_file(path)} is missing: {columns}."


class ImageFiles(Sequence["np.ndarray"]):
    """Images (H, W, 3) uint8, read when they are asked for. Raises InvalidValueError for a file that is none."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        found = self._files[index]
        return [_image(file) for file in found] if isinstance(found, tuple) else _image(found)


def _image(file: Path) -> np.ndarray:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise InvalidValueError(f"{file} cannot be read as an image: {error}.") from None


def _rows(path: str) -> list[dict[str, str]]:
    problem = missing_feedback(path)
    if problem:
        raise MissingResourceError(problem)
    try:
        with prompt_file(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidValueError(f"{path} cannot be read as a CSV file in UTF-8: {error}.") from None
    columns = set(rows[0]) if rows else set()
    if "image" not in columns or ("label" in columns) == ("rank" in columns):
        raise InvalidValueError(f"{path}: a feedback file needs a column 'image', one of 'label' or 'rank', and rows.")
    column = "label" if "label" in columns else "rank"
    rows = [row for row in rows if (row[column] or "").strip()]  # the others wait for somebody to look at them
    if not rows:
        raise InvalidValueError(f"{path}: no image has a {column} yet.", "python -m harness.label makes a page for it.")
    nameless = next((index for index, row in enumerate(rows) if not row["image"]), None)
    if nameless is not None:
        raise InvalidValueError(f"{path}, row {nameless + 1}: no image is named.")
    return rows


def _number(path: str, index: int, row: dict[str, str], column: str, high: float) -> float:
    low = 0.0 if column == "label" else 1.0
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or not low <= value <= high:
        span = "from 0 to 1" if column == "label" else "of at least 1"
        raise InvalidValueError(f"{path}, row {index + 1}: {column} {row[column]!r} is no number {span}.")
    return value
