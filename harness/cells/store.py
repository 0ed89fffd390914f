"""What is on disk of one cell: images, rows, scores and summary. Contract 2.

Images and row files are written once and whole. Every attempt at a shard has its own row file; reading merges them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from harness.cells.features import FeatureBlock, decode_features, encode_features
from harness.cells.tables import (
    StoredScore,
    UnreadableTable,
    decode_images,
    decode_scores,
    encode_images,
    encode_scores,
)
from harness.errors import InvalidValueError, StorageError
from harness.evaluators.identity import EvaluatorKey
from harness.lib.atomic import check_writable, free_space, stray_files, write_atomic
from harness.lib.hashing import file_hash
from harness.lib.lease import Lease
from harness.lib.reading import UnreadableFileError, read_bytes, read_json, read_yaml
from harness.records import ImageItem, ImageKey, ImageRow, ScoreRow, Status

__all__ = [
    "CellStore",
    "EvaluatorKey",
    "FeatureBlock",
    "Lease",
    "StoredScore",
    "WrittenImage",
    "attempt_id",
    "check_writable",
    "encode_png",
    "free_space",
]

log = logging.getLogger(__name__)

CLOCK_SKEW_NS = 60 * 10**9  # between hosts
MAX_TABLE = 2**30  # bytes of a row file
_RANK = {Status.ERROR: 0, Status.REFUSED: 1, Status.OK: 2}
_Table = TypeVar("_Table")


class WrittenImage(NamedTuple):
    """An image on disk: path relative to the cell's folder, sha256 in hex, size in bytes."""

    file: str
    sha256: str
    size: int


def encode_png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 RGB without loss; the same pixels give the same bytes."""
    from PIL import Image

    sink = BytesIO()
    Image.fromarray(image).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def attempt_id(task_id: str) -> str:
    """Return a file name for what one attempt at a task writes; no two attempts share it."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', task_id).lstrip('.')[:120]}-{uuid.uuid4().hex[:8]}"


class CellStore:
    """Reads and writes the folder of one cell. Making one touches nothing.

    With `cell_id`, images that say that they are another cell's do not count; nor do, ever, those that another
    training drew than most. `problems` names what reading had to leave out, such as a row file that a crash truncated.
    """

    def __init__(self, folder: Path, cell_id: str | None = None) -> None:
        self.folder = folder
        self.cell_id = cell_id
        self.problems: dict[str, str] = {}
        self._known: dict[Path, bool] = {}  # folders below: whether they are in this one

    def write_image(self, key: ImageKey, image: np.ndarray) -> WrittenImage:
        """Write one image under its name. Raises StorageError."""
        if "/" in key.prompt_id or "\0" in key.prompt_id or key.prompt_id.startswith("."):
            raise InvalidValueError(f"prompt id '{key.prompt_id}' cannot be part of a file name.")
        data = encode_png(image)
        self._put(self.folder / key.relative_path, data)
        return WrittenImage(key.relative_path, hashlib.sha256(data).hexdigest(), len(data))

    def append_images(self, attempt: str, rows: Iterable[ImageRow]) -> None:
        """Record what became of the images of one attempt; only after their files are written."""
        self._put(self.folder / "rows" / f"{attempt}.parquet", encode_images(rows))

    def images(self) -> dict[ImageKey, ImageRow]:
        """Return one row per image: the latest that is ok, else the latest refused, else the latest error."""
        merged: dict[ImageKey, ImageRow] = {}
        for row in self._own_rows():
            known = merged.get(row.key)
            if known is None or _RANK[row.status] >= _RANK[known.status]:
                merged[row.key] = row
        return merged

    def _own_rows(self) -> list[ImageRow]:
        """Return the rows of this cell, drawn by one training, oldest first; the others are reported."""
        found = [row for rows in self._tables(self.folder / "rows", "*.parquet", decode_images) for row in rows]
        rows = [row for row in found if None in (self.cell_id, row.cell_id) or row.cell_id == self.cell_id]
        if len(rows) < len(found):
            self._report("rows", f"{len(found) - len(rows)} images are another cell's, and do not count")
        artifact = drawn_with(rows)
        own = [row for row in rows if row.artifact in (None, artifact)]
        if len(own) < len(rows):
            self._report("rows", f"{len(rows) - len(own)} images were drawn with another training than the others, "
                                 f"{artifact}, and do not count")
        return own

    def artifact(self) -> str | None:
        """Return which training the cell's images were drawn with, None where they do not say."""
        return drawn_with(self.images().values())

    def begun(self) -> float:
        """Return when the first rows were written, as seconds of the epoch; infinity where there are none."""
        return min((path.stat().st_mtime for path in _visible(self.folder / "rows", "*.parquet")), default=math.inf)

    def missing(self, items: Iterable[ImageItem], verify: bool = True) -> tuple[ImageItem, ...]:
        """Return the images that are to be made: not done, or of another prompt or seed than they should have."""
        items = tuple(items)
        wanted = {item.key for item in items}
        images = {key: row for key, row in self.images().items() if key in wanted}
        done = self.done(verify, images)
        return tuple(item for item in items if item.key not in done or not _is_of(images[item.key], item))

    def done(self, verify: bool = True, images: Mapping[ImageKey, ImageRow] | None = None) -> set[ImageKey]:
        """Return the images that need no work: file there as its row says, or refused without a file.

        `verify` compares the sha256 of every file; without it sizes only. `images` are the rows, if they are known.
        """
        known = self.images() if images is None else images
        rows = [row for row in known.values() if row.status is not Status.ERROR]
        with ThreadPoolExecutor(max_workers=8) as threads:
            intact = threads.map(lambda row: self._intact(row, verify), rows)
            done = {row.key for row, good in zip(rows, intact, strict=True) if good}
        if len(done) < len(rows):
            log.warning("%s: %d images are missing or damaged and do not count", self.folder, len(rows) - len(done))
        return done

    def append_scores(self, evaluator: EvaluatorKey, attempt: str, scores: Iterable[StoredScore]) -> None:
        """Record the scores of one attempt, each with the sha256 of what it was made from."""
        path = self._scores(evaluator) / f"{attempt}.parquet"
        self._put(path, encode_scores(scores, evaluator.fingerprint))

    def scores(
        self, evaluator: EvaluatorKey, baseline: Mapping[ImageKey, str] | None = None
    ) -> dict[ImageKey, ScoreRow]:
        """Return one score per image, a score before an error, that this evaluator made from today's images.

        `baseline` gives the sha256 of the images compared with; without it they are not checked.
        """
        images = self.images()
        merged: dict[ImageKey, ScoreRow] = {}
        decode = lambda data: decode_scores(data, evaluator.fingerprint)  # noqa: E731
        for scores in self._tables(self._scores(evaluator), "*.parquet", decode):
            for score in scores:
                key = score.row.key
                if not _is_current(score.sha256, images.get(key)):
                    continue
                if baseline is not None and score.baseline_sha256 != baseline.get(key):
                    continue
                if score.row.error is None or key not in merged or merged[key].error is not None:
                    merged[key] = score.row
        return merged

    def write_features(self, evaluator: EvaluatorKey, attempt: str, block: FeatureBlock) -> None:
        """Record the features of one attempt."""
        path = self._scores(evaluator) / f"features-{attempt}.npz"
        self._put(path, encode_features(block, evaluator.fingerprint))

    def features(self, evaluator: EvaluatorKey) -> Iterator[FeatureBlock]:
        """Yield the features that this evaluator made from today's images, each image once, file by file."""
        images = self.images()
        seen: set[ImageKey] = set()
        decode = lambda data: decode_features(data, evaluator.fingerprint)  # noqa: E731
        for block in self._tables(self._scores(evaluator), "features-*.npz", decode):
            chosen = [
                index
                for index, (key, sha256) in enumerate(zip(block.keys, block.sha256, strict=True))
                if key not in seen and _is_current(sha256, images.get(key))
            ]
            seen.update(block.keys[index] for index in chosen)
            if chosen:
                yield block.take(chosen)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json. NaN and infinity are refused: an unknown number is None."""
        self._write_json("summary.json", summary)

    def read_summary(self) -> dict[str, Any] | None:
        """Return summary.json, or None when there is none that can be read."""
        return self._read("summary.json", read_json)

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Write provenance.json."""
        self._write_json("provenance.json", provenance)

    def read_provenance(self) -> dict[str, Any] | None:
        """Return provenance.json, or None when there is none that can be read."""
        return self._read("provenance.json", read_json)

    def write_cell(self, config: Mapping[str, Any]) -> None:
        """Write cell.yaml: the resolved configuration, plain values only."""
        import yaml

        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        write_atomic(self.folder / "cell.yaml", text.encode())

    def read_cell(self) -> dict[str, Any] | None:
        """Return cell.yaml, or None when there is none that can be read."""
        return self._read("cell.yaml", read_yaml)

    def strays(self) -> list[Path]:
        """Return temporary files that a killed run left here. They are never counted."""
        return stray_files(self.folder)

    def _scores(self, evaluator: EvaluatorKey) -> Path:
        return self.folder / "scores" / evaluator.name

    def _put(self, path: Path, data: bytes) -> None:
        """Write a file below the folder. Raises StorageError where a link on the way leads out of it."""
        if not self._is_inside(path.parent):
            raise StorageError(f"{path.parent} leads out of {self.folder}, and nothing is written there.",
                               "Replace the link by a folder.")
        write_atomic(path, data)

    def _is_inside(self, place: Path) -> bool:
        """Say whether a path below the folder stays there, whatever links are on its way."""
        if place == self.folder:
            return True
        if place not in self._known:
            away = place.is_symlink() and not place.resolve().is_relative_to(self.folder.resolve())
            self._known[place] = not away and self._is_inside(place.parent)
        return self._known[place]

    def _intact(self, row: ImageRow, verify: bool) -> bool:
        if row.file is None:
            return row.status is Status.REFUSED
        path = self.folder / row.file
        try:
            if not self._is_inside(path.parent) or (path.is_symlink() and not self._is_inside(path)):
                self.problems[row.file] = "a link that leads out of the cell's folder"
            elif path.stat().st_size != row.bytes:
                self.problems[row.file] = "not of the recorded size"
            elif verify and file_hash(path) != row.sha256:
                self.problems[row.file] = "not of the recorded sha256"
            else:
                return True
        except FileNotFoundError:
            self.problems[row.file] = "missing"
        except OSError as error:
            self.problems[row.file] = str(error.strerror)
        return False

    def _tables(self, folder: Path, pattern: str, decode: Callable[[bytes], _Table]) -> Iterator[_Table]:
        """Yield what can be read of the files of a folder, oldest first."""
        for path in sorted(_visible(folder, pattern), key=_age):
            name = str(path.relative_to(self.folder))
            if not self._is_inside(path):
                self._report(name, "it is a link that leads out of the folder")
                continue
            try:
                found = decode(read_bytes(path, MAX_TABLE) or b"")
            except UnreadableTable as error:
                self._report(name, str(error))
            except UnreadableFileError as error:
                self._report(name, error.reason)
            else:
                yield found

    def _report(self, name: str, reason: str) -> None:
        if name not in self.problems:
            log.warning("%s: left out, %s", self.folder / name, reason)
        self.problems[name] = reason

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(self.folder / name, f"{text}\n".encode())

    def _read(self, name: str, read: Callable[[Path], dict[str, Any] | None]) -> dict[str, Any] | None:
        if not self._is_inside(self.folder / name):
            self._report(name, "it is a link that leads out of the folder")
            return None
        try:
            return read(self.folder / name)
        except UnreadableFileError as error:
            self._report(name, error.reason)
            return None


def _age(path: Path) -> tuple[int, str]:
    """Return what orders row files, oldest first; one of a future date comes first: its clock was wrong."""
    try:
        written = path.stat().st_mtime_ns
    except OSError:  # gone, or a link to nowhere: reading says so
        written = 0
    return (written if written <= time.time_ns() + CLOCK_SKEW_NS else 0), path.name


def _is_of(row: ImageRow, item: ImageItem) -> bool:
    return (row.prompt, row.seed) == (item.prompt, item.seed)


def drawn_with(rows: Iterable[ImageRow]) -> str | None:
    """Return which training drew images: what most rows say of those that are there. None where none says it."""
    told = Counter(row.artifact for row in rows if row.artifact and row.status is not Status.ERROR)
    return min(told, key=lambda artifact: (-told[artifact], artifact), default=None)


def _visible(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if not path.name.startswith(".")]


def _is_current(sha256: str | None, row: ImageRow | None) -> bool:
    return row is not None and sha256 is not None and row.sha256 == sha256
