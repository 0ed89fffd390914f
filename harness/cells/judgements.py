"""What a summary's evaluators said of each image, decided and kept beside it: reports read this and build nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cells.tables import (
    StoredJudgement,
    UnreadableTable,
    decode_judgements,
    encode_judgements,
    read_judgement_table,
)
from harness.evaluator import Evaluator
from harness.lib.atomic import write_atomic
from harness.lib.reading import UnreadableFileError, read_bytes
from harness.records import ImageKey, ImageRow, ScoreRow

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "verdicts.parquet"


@dataclass(frozen=True)
class Judged:
    """The rows of one evaluator, named by the fingerprint that the summary has of it."""

    evaluator: Evaluator
    fingerprint: str
    rows: tuple[ScoreRow, ...]

    def stored(self, images: Mapping[ImageKey, ImageRow]) -> Iterator[StoredJudgement]:
        """Yield what is kept of each row, with the hash of the image that it is of."""
        for row in self.rows:
            image = images.get(row.key)
            if image is not None:
                score = None if row.error is not None else self.evaluator.score_of(row)
                yield StoredJudgement(self.evaluator.name, self.fingerprint, replace(row, values={}), score,
                                      image.sha256)


@dataclass(frozen=True)
class Judgement:
    """What an evaluator said of an image: its row without raw scores, and the number that a verdict follows from."""

    row: ScoreRow
    score: float | None


def write_judgements(folder: Path, judged: list[Judged], images: Mapping[ImageKey, ImageRow]) -> None:
    """Write what the evaluators of a cell said. Raises StorageError."""
    write_atomic(folder / FILE, encode_judgements([one for each in judged for one in each.stored(images)]))


def read_judgements(
    folder: Path, fingerprints: Mapping[str, str], images: Mapping[ImageKey, ImageRow]
) -> dict[str, dict[ImageKey, Judgement]] | None:
    """Return what was said of today's images by evaluator; None if no file is there, or none that can be read.

    `fingerprints` are those of the summary: what others said before does not count. Files of earlier releases hold
    verdicts alone.
    """
    try:
        data = read_bytes(folder / FILE)
        stored = decode_judgements(data) if data is not None else None
    except (UnreadableFileError, UnreadableTable):
        return None
    if stored is None:
        return None
    by_evaluator: dict[str, dict[ImageKey, Judgement]] = {name: {} for name in fingerprints}
    for one in stored:
        image = images.get(one.row.key)
        if fingerprints.get(one.evaluator) == one.fingerprint and image is not None and image.sha256 == one.sha256:
            by_evaluator[one.evaluator][one.row.key] = Judgement(one.row, one.score)
    return by_evaluator


def judgement_table(folder: Path, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Return the file of judgements by columns, of whichever fingerprints; None if it is missing or unreadable.

    `columns` are those to read, with the key's among them.
    """
    try:
        data = read_bytes(folder / FILE)
        return read_judgement_table(data, columns) if data is not None else None
    except (UnreadableFileError, UnreadableTable):
        return None
