"""What is on disk of one cell: images, rows, scores and summary. Contract 2.

Images and row files are written once and whole. Every attempt at a shard has its own row file; reading merges them.
What was read is kept while the files are as they were, so that it is read once however often it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import stat
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from harness.cells.features import FeatureBlock, decode_features, encode_features
from harness.cells.row_files import LEADS_OUT, Memory, RowFile, RowFiles
from harness.cells.tables import (
    StoredScore,
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
from harness.lib.reading import UnreadableFileError, read_json, read_yaml
from harness.records import ImageItem, ImageKey, ImageRow, ScoreRow, Status, WrittenImage

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

ROW_BYTES, SCORE_BYTES, MERGED_BYTES = 1000, 600, 170  # that a row takes in memory, and its place among the merged
LOOKED_AT, HASHED = 256, 4  # files that a thread takes at a time
_RANK = {Status.ERROR: 0, Status.REFUSED: 1, Status.OK: 2}


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
    `memory` bounds what it keeps, together with the stores that share it.
    """

    def __init__(self, folder: Path, cell_id: str | None = None, memory: Memory | None = None) -> None:
        self.folder = folder
        self.cell_id = cell_id
        self._files = RowFiles(folder, memory or Memory())

    def __reduce__(self) -> tuple[type[CellStore], tuple[Path, str | None]]:
        return CellStore, (self.folder, self.cell_id)

    @property
    def problems(self) -> dict[str, str]:
        return self._files.problems

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

    def images(self) -> Mapping[ImageKey, ImageRow]:
        """Return one row per image: the latest that is ok, else the latest refused, else the latest error."""
        files = self._files.listed(self.folder / "rows", "*.parquet")
        return self._files.once("images", (*files, self._files.failures), lambda: self._merged(files),
                                lambda merged: MERGED_BYTES * len(merged))

    def _merged(self, files: list[RowFile]) -> dict[ImageKey, ImageRow]:
        merged: dict[ImageKey, ImageRow] = {}
        for row in self._own_rows(files):
            key = row.key
            known = merged.get(key)
            if known is None or _RANK[row.status] >= _RANK[known.status]:
                merged[key] = row
        return merged

    def _own_rows(self, files: list[RowFile]) -> list[ImageRow]:
        """Return the rows of this cell, drawn by one training, oldest first; the others are reported."""
        tables = self._files.tables(files, decode_images, lambda rows: ROW_BYTES * len(rows))
        all_rows = list(chain.from_iterable(tables))
        rows = [row for row in all_rows if None in (self.cell_id, row.cell_id) or row.cell_id == self.cell_id]
        if len(rows) < len(all_rows):
            self._files.report("rows", f"{len(all_rows) - len(rows)} images belong to another cell and are ignored")
        artifact = drawn_with(rows)
        of_training = [row for row in rows if row.artifact in (None, artifact)]
        if len(of_training) < len(rows):
            n_others = len(rows) - len(of_training)
            self._files.report("rows", f"{n_others} images were generated with another training than the others, "
                                       f"{artifact}, and are ignored")
        return of_training

    def artifact(self) -> str | None:
        """Return which training the cell's images were generated with, None if they do not say."""
        return drawn_with(self.images().values())

    def begun(self) -> float:
        """Return when the first rows were written, as seconds of the epoch; infinity where there are none."""
        files = _visible(self.folder / "rows", "*.parquet")
        return min((path.stat().st_mtime for path in files), default=math.inf)

    def missing(self, items: Iterable[ImageItem], verify: bool = True) -> tuple[ImageItem, ...]:
        """Return the images that are to be made: not done, or of another prompt or seed than they should have."""
        items = tuple(items)
        stored = self.images()
        images = {item.key: stored[item.key] for item in items if item.key in stored}
        done = self.done(verify, images)
        if not done:
            return items
        return tuple(item for item in items if item.key not in done or not _is_of(images[item.key], item))

    def done(self, verify: bool = True, images: Mapping[ImageKey, ImageRow] | None = None) -> set[ImageKey]:
        """Return the images that need no work: file there as its row says, or refused without a file.

        `verify` compares the sha256 of every file; without it sizes only. `images` are the rows, if they are known.
        """
        known = self.images() if images is None else images
        rows = [row for row in known.values() if row.status is not Status.ERROR]
        self._files.look_anew()
        size = HASHED if verify else LOOKED_AT
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        with ThreadPoolExecutor(max_workers=8) as threads:
            done = set(chain.from_iterable(threads.map(lambda part: self._intact_of(part, verify), parts)))
        if len(done) < len(rows):
            log.warning("%s: %d images are missing or damaged and are ignored", self.folder, len(rows) - len(done))
        return done

    def append_scores(self, evaluator: EvaluatorKey, attempt: str, scores: Iterable[StoredScore]) -> None:
        """Record the scores of one attempt, each with the sha256 of what it was made from."""
        path = self._scores(evaluator) / f"{attempt}.parquet"
        self._put(path, encode_scores(scores, evaluator.fingerprint))

    def scores(
        self,
        evaluator: EvaluatorKey,
        baseline: Mapping[ImageKey, str] | None = None,
        images: Mapping[ImageKey, ImageRow] | None = None,
    ) -> dict[ImageKey, ScoreRow]:
        """Return one score per image, a score before an error, that this evaluator made from today's images.

        `baseline` gives the sha256 of the images compared with; without it they are not checked. `images` are the rows
        of today's images, if they are known.
        """
        images = self.images() if images is None else images
        merged: dict[ImageKey, ScoreRow] = {}
        files = self._files.listed(self._scores(evaluator), "*.parquet")
        tables = self._files.tables(files, lambda data: decode_scores(data, evaluator.fingerprint),
                                    lambda scores: SCORE_BYTES * len(scores), evaluator.fingerprint)
        for scores in tables:
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

    def features(
        self, evaluator: EvaluatorKey, images: Mapping[ImageKey, ImageRow] | None = None
    ) -> Iterator[FeatureBlock]:
        """Yield the features that this evaluator made from today's images, each image once, file by file.

        `images` are the rows of today's images, if they are known.
        """
        images = self.images() if images is None else images
        seen: set[ImageKey] = set()
        files = self._files.listed(self._scores(evaluator), "features-*.npz")
        tables = self._files.tables(files, lambda data: decode_features(data, evaluator.fingerprint),
                                    lambda block: block.n_bytes, evaluator.fingerprint)
        for block in tables:
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
        """Write a file below the folder. Raises StorageError if a link on the way leads out of it."""
        if not self._files.is_inside(path.parent):
            raise StorageError(f"{path.parent} is a link out of {self.folder}; nothing is written there.",
                               "Replace the link with a folder.")
        write_atomic(path, data)

    def _intact_of(self, rows: Sequence[ImageRow], verify: bool) -> list[ImageKey]:
        return [row.key for row in rows if self._intact(row, verify)]

    def _intact(self, row: ImageRow, verify: bool) -> bool:
        if row.file is None:
            return row.status is Status.REFUSED
        path = f"{self.folder}/{row.file}"
        try:
            about = os.lstat(path)
            is_link = stat.S_ISLNK(about.st_mode)
            if not self._files.holds(row.file, is_link):
                self.problems[row.file] = "a link out of the cell's folder"
            elif (os.stat(path) if is_link else about).st_size != row.bytes:
                self.problems[row.file] = "not of the recorded size"
            elif verify and file_hash(Path(path)) != row.sha256:
                self.problems[row.file] = "not of the recorded sha256"
            else:
                return True
        except FileNotFoundError:
            self.problems[row.file] = "missing"
        except OSError as error:
            self.problems[row.file] = str(error.strerror)
        return False

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(self.folder / name, f"{text}\n".encode())

    def _read(self, name: str, read: Callable[[Path], dict[str, Any] | None]) -> dict[str, Any] | None:
        self._files.look_anew()
        if not self._files.is_inside(self.folder / name):
            self._files.report(name, LEADS_OUT)
            return None
        try:
            return read(self.folder / name)
        except UnreadableFileError as error:
            self._files.report(name, error.reason)
            return None


class Stores:
    """The stores of a command, one a folder; together they keep a bounded part of what they read."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._known: dict[tuple[Path, str | None], CellStore] = {}

    def of(self, folder: Path, cell_id: str | None = None) -> CellStore:
        """Return the store of a folder; the same one at every call."""
        if (folder, cell_id) not in self._known:
            self._known[folder, cell_id] = CellStore(folder, cell_id, self._memory)
        return self._known[folder, cell_id]


def _is_of(row: ImageRow, item: ImageItem) -> bool:
    return (row.prompt, row.seed) == (item.prompt, item.seed)


def drawn_with(rows: Iterable[ImageRow]) -> str | None:
    """Return which training drew images: what most rows say of those that are there. None if none says it."""
    told = Counter(row.artifact for row in rows if row.artifact and row.status is not Status.ERROR)
    return min(told, key=lambda artifact: (-told[artifact], artifact), default=None)


def _visible(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if not path.name.startswith(".")]


def _is_current(sha256: str | None, row: ImageRow | None) -> bool:
    return row is not None and sha256 is not None and row.sha256 == sha256
