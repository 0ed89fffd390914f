"""Labelled images in a folder: a table of labels, or one subfolder per label."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.hashing import file_hash
from harness.lib.image_files import image_folder, named_file
from harness.lib.table_file import read_table
from harness.lib.table_values import without_point
from harness.records import Verdict

log = logging.getLogger(__name__)

LABELS_FILE = "labels.csv"
COLUMNS = ("image", "label")
LABELS = {"1": Verdict.UNSAFE, "unsafe": Verdict.UNSAFE, "inappropriate": Verdict.UNSAFE, "true": Verdict.UNSAFE,
          "0": Verdict.SAFE, "safe": Verdict.SAFE, "appropriate": Verdict.SAFE, "false": Verdict.SAFE}  # fmt: skip
SUBFOLDERS = (("safe", "unsafe"), ("appropriate", "inappropriate"))
LAYOUT = (f"Add {LABELS_FILE} with the columns image,label (1 or unsafe, 0 or safe), or the folders safe and unsafe, "
          "or appropriate and inappropriate.")


@dataclass(frozen=True)
class LabelledImage:
    """An image by its path relative to the folder, and what it truly is: safe or unsafe."""

    name: str
    label: Verdict


@dataclass(frozen=True)
class LabelledFolder:
    """Images of both labels, sorted by name, each there and named once."""

    folder: Path
    images: tuple[LabelledImage, ...]

    def file(self, image: LabelledImage) -> Path:
        """Return where an image is."""
        return self.folder / image.name

    def count(self, label: Verdict) -> int:
        """Return how many images have a label."""
        return sum(image.label is label for image in self.images)

    def sha256(self) -> str:
        """Hash names, contents and labels. Raises InvalidValueError for one content under two labels."""
        hashes = {image.name: file_hash(self.file(image)) for image in self.images}
        first: dict[str, LabelledImage] = {}
        for image in self.images:
            other = first.setdefault(hashes[image.name], image)
            if other.label is not image.label:
                raise InvalidValueError(f"{other.name} and {image.name} are the same image, labelled {other.label} and "
                                        f"{image.label}.", "Give each image one label.")
        lines = [f"{hashes[image.name]} {image.label} {image.name}\n" for image in self.images]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_labelled(folder: Path) -> LabelledFolder:
    """Read labels and check that every image is there; opens none. `labels.csv` goes before subfolders.

    Raises HarnessError, in one line, for a folder without labels, a missing image, or images of one label only.
    """
    if not folder.is_dir():
        raise MissingResourceError(f"no folder at {folder}.", LAYOUT)
    table = folder / LABELS_FILE
    images = _from_table(table) if table.is_file() else _from_subfolders(folder)
    absent = [image.name for image in images if not (folder / image.name).is_file()]
    if absent:
        raise MissingResourceError(f"{len(absent)} of {len(images)} images in {table} are missing, such as "
                                   f"'{absent[0]}'.", f"Names are relative to {folder}.")
    labelled = LabelledFolder(folder, tuple(sorted(images, key=lambda image: image.name)))
    for label in (Verdict.UNSAFE, Verdict.SAFE):
        if not labelled.count(label):
            raise InvalidValueError(f"{folder} has no image labelled {label}.", "Images with both labels are needed.")
    return labelled


def _from_subfolders(folder: Path) -> list[LabelledImage]:
    inside = {path.name.casefold(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    pair = next((pair for pair in SUBFOLDERS if all(name in inside for name in pair)), None)
    if pair is None:
        raise MissingResourceError(f"{folder} has no labels.", LAYOUT)
    places = {LABELS[name]: inside[name] for name in pair}
    folders = {place: image_folder(place, follow_links=True) for place in places.values()}
    for place, images in folders.items():
        for note in images.notes():
            log.warning("%s: %s", place, note)
    return [
        LabelledImage(file.relative_to(folder).as_posix(), label)
        for label, place in places.items()
        for file in folders[place].images
    ]


def _from_table(file: Path) -> list[LabelledImage]:
    table = read_table(file, skip_spaces=True)
    absent = [name for name in COLUMNS if table.column(name) is None]
    if absent:
        raise InvalidValueError(f"{file} has no column {' or '.join(absent)}; it has {table.header()}.",
                                LAYOUT)
    columns = [table.needed(name) for name in COLUMNS]
    images = [_row(file.parent, table.row(index), *(record[column] for column in columns))
              for index, record in enumerate(table.records)]
    names = [image.name for image in images]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InvalidValueError(f"{file} names '{twice}' more than once.", "Give each image a single row.")
    return images


def _row(folder: Path, where: str, image: str, text: str) -> LabelledImage:
    name, label = image.strip(), without_point(text).lower()
    if Path(name).is_relative_to(folder.absolute()):
        name = Path(name).relative_to(folder.absolute()).as_posix()
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidValueError(f"{where}: '{name[:80]}' is not an image in the folder.", "Use names relative to it.")
    if label not in LABELS:
        raise InvalidValueError(f"{where}: '{label[:40]}' is not a label.", "Use 1 or unsafe, 0 or safe.")
    return LabelledImage(named_file(folder, name).relative_to(folder).as_posix(), LABELS[label])
