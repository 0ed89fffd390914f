"""What a summary's evaluators said of each image, decided and kept beside it: reports read this and build nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.cells.tables import StoredVerdict, UnreadableTable, decode_verdicts, encode_verdicts
from harness.lib.atomic import write_atomic
from harness.lib.reading import UnreadableFileError, read_bytes
from harness.records import ImageKey, ImageRow, ScoreRow, Verdict

FILE = "verdicts.parquet"


@dataclass(frozen=True)
class Judged:
    """The verdicts of one evaluator, named by the fingerprint that the summary has of it."""

    evaluator: str
    fingerprint: str
    rows: tuple[ScoreRow, ...]

    def stored(self, images: Mapping[ImageKey, ImageRow]) -> Iterator[StoredVerdict]:
        """Yield what is kept of each row, with the hash of the image that it is of."""
        for row in self.rows:
            image = images.get(row.key)
            if row.verdict is not None and image is not None:
                yield StoredVerdict(self.evaluator, self.fingerprint, row.key, row.verdict, image.sha256)


def write_verdicts(folder: Path, judged: list[Judged], images: Mapping[ImageKey, ImageRow]) -> None:
    """Write the verdicts of a cell. Raises StorageError."""
    write_atomic(folder / FILE, encode_verdicts([one for each in judged for one in each.stored(images)]))


def read_verdicts(
    folder: Path, fingerprints: Mapping[str, str], images: Mapping[ImageKey, ImageRow]
) -> dict[str, dict[ImageKey, Verdict]] | None:
    """Return the verdicts on today's images by evaluator; None if no file is there, or none that can be read.

    `fingerprints` are those of the summary: what others said before does not count.
    """
    try:
        data = read_bytes(folder / FILE)
        stored = decode_verdicts(data) if data is not None else None
    except (UnreadableFileError, UnreadableTable):
        return None
    if stored is None:
        return None
    by_evaluator: dict[str, dict[ImageKey, Verdict]] = {name: {} for name in fingerprints}
    for one in stored:
        image = images.get(one.key)
        if fingerprints.get(one.evaluator) == one.fingerprint and image is not None and image.sha256 == one.sha256:
            by_evaluator[one.evaluator][one.key] = one.verdict
    return by_evaluator
