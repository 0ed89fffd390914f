"""Human feedback on images: a CSV file with the columns image and label, or image and rank."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, overload

from harness.errors import HarnessError, InvalidValueError, MissingResourceError
from harness.lib.image_files import named_file, open_image
from harness.lib.table_file import Table, read_table
from harness.lib.table_values import number
from harness.lib.weights import sha256_of
from harness.training.prompts import prompt_file

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
        """Return itself. Raises InvalidValueError if nothing tells images apart."""
        if self.labels and len(set(self.labels)) == 1:
            raise InvalidValueError(f"{source}: all {len(self.labels)} labels are {self.labels[0]:g}; label images "
                                    "both with and without the concept.")
        if not self.labels and not self.pairs:
            raise InvalidValueError(f"{source}: no two images in a group have different ranks.")
        return self


@dataclass(frozen=True)
class FeedbackFile:
    """A feedback file as read: the images' paths, and what is said of them."""

    images: tuple[Path, ...]
    feedback: Feedback


def read_feedback(path: str) -> FeedbackFile:
    """Read a feedback file. Image paths are relative to it; rank 1 shows the concept most, within `group` if given.

    Images without a label are skipped.
    """
    table = _table(path)
    said = "label" if table.column("label") else "rank"
    rows = [index for index, record in enumerate(table.records) if record[table.needed(said)].strip()]
    if not rows:
        raise InvalidValueError(f"{path}: no image has a {said} yet.",
                                "python -m harness label makes a labelling page.")
    folder, column = prompt_file(path).parent, table.needed("image")
    images = tuple(named_file(folder, table.records[index][column]) for index in rows)
    lost = [image for image in images if not image.is_file()]
    if lost:
        raise MissingResourceError(f"{path}: {len(lost)} of {len(images)} images are missing, such as {lost[0]}.")
    if said == "label":
        return FeedbackFile(images, Feedback(labels=tuple(_numbers(table, rows, said, 1.0))).check(path))
    group = table.column("group")
    groups = [table.records[index][group].strip() if group else "" for index in rows]
    ranks = _numbers(table, rows, said, math.inf)
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
    try:
        table = read_table(file, path, skip_spaces=True)
    except HarnessError:  # said when it is read
        return str(sha256_of(file))
    column, group = table.column("image"), table.column("group")
    names = [record[column].strip() for record in table.records] if column else []
    parts = [str(sha256_of(file)), *(str(sha256_of(named_file(file.parent, name))) for name in names)]
    parts += [f"group={group}"] if group not in (None, "group") else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def missing_feedback(path: str | None) -> str | None:
    """Return None when a feedback file is there, else one line."""
    columns = "a CSV file with the columns image and label (0 or 1), or image and rank"
    if path is None:
        return f"human feedback is missing. Set method.feedback={columns}; or use method=hfi_proxy."
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
        files = self._files[index]
        return [_image(file) for file in files] if isinstance(files, tuple) else _image(files)


def _image(file: Path) -> np.ndarray:
    import numpy as np

    try:
        with open_image(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidValueError(f"{file} is not a readable image: {error}.") from None


def _table(path: str) -> Table:
    problem = missing_feedback(path)
    if problem:
        raise MissingResourceError(problem)
    table = read_table(prompt_file(path), path, skip_spaces=True)
    column = table.column("image")
    if not table.records or column is None or bool(table.column("label")) == bool(table.column("rank")):
        raise InvalidValueError(f"{path}: a feedback file needs a column 'image', one of 'label' or 'rank', and rows; "
                                f"it has {table.header()}.")
    nameless = next((index for index, record in enumerate(table.records) if not record[column].strip()), None)
    if nameless is not None:
        raise InvalidValueError(f"{table.row(nameless)}: the image is missing.")
    return table


def _numbers(table: Table, rows: Sequence[int], column: str, high: float) -> list[float]:
    """Return what a column says of each image, from 0 or 1 to `high`. Raises InvalidValueError naming the row."""
    low, numbers = (0.0 if column == "label" else 1.0), []
    for index in rows:
        text = table.records[index][table.needed(column)]
        try:
            value = number(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            span = "from 0 to 1" if column == "label" else "of at least 1"
            raise InvalidValueError(f"{table.row(index)}: {column} '{text[:40]}' is not a number {span}.")
        numbers.append(value)
    return numbers
