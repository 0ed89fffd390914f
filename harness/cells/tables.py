"""Rows as Parquet: the column types of image rows and score rows, and the way there and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import cache
from io import BytesIO
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from harness.records import Box, ImageRow, ScoreRow, Status, Values, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
MAX_ROWS = 1_000_000
FEW_ROWS = 4096  # that one thread reads sooner than several
# Columns that files of earlier versions lack: unknown there.
ADDED_TO_IMAGES = frozenset({"cell_id", "artifact", "host", "hardware", "versions"})
ADDED_TO_SCORES = frozenset({"boxes"})
ADDED_TO_JUDGEMENTS = frozenset({"value", "score", "label", "error", "boxes"})

_REPEATED = ("prompt", "worker", "error", "cell_id", "artifact", "host", "hardware", "versions")
_COLUMNS = tuple(one.name for one in fields(ImageRow))
_STATUS = {status.value: status for status in Status}


class UnreadableTable(Exception):
    """A row file that is truncated, corrupt or of another schema."""


@dataclass(frozen=True, slots=True)
class StoredScore:
    """A score with the hashes of the images that it was made from."""

    row: ScoreRow
    sha256: str | None
    baseline_sha256: str | None = None


@dataclass(frozen=True)
class StoredJudgement:
    """What an evaluator of this fingerprint says of the image of this hash; `row` is without its raw scores.

    `score` is the number that a verdict follows from, or the value.
    """

    evaluator: str
    fingerprint: str
    row: ScoreRow
    score: float | None
    sha256: str | None


@cache
def image_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("repeat", pa.int32()),
            ("prompt", pa.string()),
            ("category", pa.list_(pa.string())),
            ("seed", pa.uint64()),
            ("guidance_scale", pa.float64()),
            ("file", pa.string()),
            ("sha256", pa.string()),
            ("bytes", pa.int64()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("seconds", pa.float64()),
            ("batch_size", pa.int32()),
            ("worker", pa.string()),
            ("flags", pa.list_(pa.string())),
            ("cell_id", pa.string()),
            ("artifact", pa.string()),
            ("host", pa.string()),
            ("hardware", pa.string()),
            ("versions", pa.string()),
        ]
    )


@cache
def score_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("repeat", pa.int32()),
            ("verdict", pa.string()),
            ("value", pa.float64()),
            ("label", pa.string()),
            ("values", pa.map_(pa.string(), pa.float64())),
            ("error", pa.string()),
            ("sha256", pa.string()),
            ("baseline_sha256", pa.string()),
            ("boxes", _boxes()),
        ]
    )


@cache
def judgement_schema() -> pa.Schema:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("evaluator", "fingerprint", "prompt_id", "verdict", "sha256")]
    numbers = [("value", pa.float64()), ("score", pa.float64())]
    added = [*numbers, ("label", pa.string()), ("error", pa.string()), ("boxes", _boxes())]
    return pa.schema([*texts, ("repeat", pa.int32()), *added])


def _boxes() -> pa.DataType:
    import pyarrow as pa

    numbers = [(name, pa.float32()) for name in ("score", "left", "top", "width", "height")]
    return pa.list_(pa.struct([("label", pa.string()), *numbers]))


def encode_images(rows: Iterable[ImageRow]) -> bytes:
    """Return a Parquet file of image rows."""
    records = [{**asdict(row), "category": list(row.category), "flags": list(row.flags)} for row in rows]
    return _encode(records, image_schema(), {})


def encode_scores(scores: Iterable[StoredScore], fingerprint: str) -> bytes:
    """Return a Parquet file of score rows; the evaluator's fingerprint goes into its metadata."""
    records = []
    for score in scores:
        record = asdict(score.row)
        record["values"] = list(score.row.values.items())
        records.append({**record, "sha256": score.sha256, "baseline_sha256": score.baseline_sha256})
    return _encode(records, score_schema(), {"fingerprint": fingerprint})


def decode_images(data: bytes) -> list[ImageRow]:
    """Read back `encode_images`. Raises UnreadableTable."""
    table, _ = _decode(data, image_schema(), ADDED_TO_IMAGES)
    try:
        return [ImageRow(*values) for values in zip(*_image_columns(table), strict=True)]
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableTable(str(error)) from error


def decode_scores(data: bytes, fingerprint: str) -> list[StoredScore]:
    """Read back `encode_scores`; nothing when it was made by another evaluator. Raises UnreadableTable."""
    table, metadata = _decode(data, score_schema(), ADDED_TO_SCORES)
    if metadata.get("fingerprint") != fingerprint:
        return []
    known: dict[Any, Any] = {}
    try:
        return [_stored_score(record, known) for record in _records(table)]
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableTable(str(error)) from error


def encode_judgements(judgements: Iterable[StoredJudgement]) -> bytes:
    """Return a Parquet file of judgements."""
    records = []
    for one in judgements:
        record = asdict(one.row)
        del record["values"]
        records.append({**record, "evaluator": one.evaluator, "fingerprint": one.fingerprint, "score": one.score,
                        "sha256": one.sha256})
    return _encode(records, judgement_schema(), {})


def decode_judgements(data: bytes) -> list[StoredJudgement]:
    """Read back `encode_judgements`; files of earlier releases hold verdicts alone. Raises UnreadableTable."""
    table, _ = _decode(data, judgement_schema(), ADDED_TO_JUDGEMENTS)
    try:
        return [_stored_judgement(record) for record in _records(table)]
    except (ValueError, TypeError) as error:
        raise UnreadableTable(str(error)) from error


def read_judgement_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a file of judgements by columns, all of them with a key; of `columns` those that it has.

    Raises UnreadableTable.
    """
    table, _ = _decode(data, judgement_schema(), ADDED_TO_JUDGEMENTS, columns)
    if table["prompt_id"].null_count or table["repeat"].null_count:
        raise UnreadableTable("a row has no key")
    return table


def boxes_at(table: pa.Table, row: int) -> tuple[Box, ...]:
    """Return the boxes of one row of a table of judgements; none for what is no box."""
    stored = table["boxes"][row].as_py() if "boxes" in table.column_names else None
    try:
        return _read_boxes(stored)
    except (ValueError, TypeError):
        return ()


def _stored_judgement(record: dict[str, Any]) -> StoredJudgement:
    _check_key(record)
    verdict = Verdict(record["verdict"]) if record["verdict"] is not None else None
    row = ScoreRow(record["prompt_id"], record["repeat"], verdict, record.get("value"), record.get("label"),
                   error=record.get("error"), boxes=_read_boxes(record.get("boxes")))
    return StoredJudgement(str(record["evaluator"]), str(record["fingerprint"]), row, record.get("score"),
                           record["sha256"])


def _read_boxes(stored: Any) -> tuple[Box, ...]:
    """Return boxes as they are stored. Raises ValueError for what is no box."""
    boxes = tuple(Box(**one) for one in stored or ())
    if any(value is None for box in boxes for value in astuple(box)):
        raise ValueError("a box has no label, score or place")
    return boxes


def _encode(records: list[dict[str, Any]], schema: pa.Schema, metadata: Mapping[str, str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    versioned = schema.with_metadata({"schema_version": str(SCHEMA_VERSION), **metadata})
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=versioned), sink, write_page_checksum=True)
    return sink.getvalue()


def _decode(
    data: bytes, schema: pa.Schema, added: frozenset[str], columns: Sequence[str] | None = None
) -> tuple[pa.Table, dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(BytesIO(data), page_checksum_verification=True)
        metadata = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
        if metadata.get("schema_version") != str(SCHEMA_VERSION) or not _fits(file.schema_arrow, schema, added):
            raise UnreadableTable(f"not of row schema {SCHEMA_VERSION}")
        if file.metadata.num_rows > MAX_ROWS:
            raise UnreadableTable(f"it has {file.metadata.num_rows} rows; the limit is {MAX_ROWS}")
        read = None if columns is None else [one for one in columns if one in file.schema_arrow.names]
        table = file.read(read, use_threads=file.metadata.num_rows > FEW_ROWS)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise UnreadableTable(_first_line(error)) from error
    return table, metadata


def _records(table: pa.Table) -> Iterator[dict[str, Any]]:
    return (record for part in table.to_batches(max_chunksize=256) for record in part.to_pylist())


def _fits(stored: pa.Schema, schema: pa.Schema, added: frozenset[str]) -> bool:
    """Return whether a file has the columns of `schema`, but for those that were added to it later."""
    import pyarrow as pa

    return stored.equals(pa.schema([column for column in schema
                                   if column.name not in added or column.name in stored.names]))


def _image_columns(table: pa.Table) -> list[list[Any]]:
    """Return the values of every field of `ImageRow`, in order; what is the same in many rows is held once."""
    count = table.num_rows
    columns = {name: table.column(name).to_pylist() if name in table.column_names else [None] * count
               for name in _COLUMNS}
    if None in columns["prompt_id"] or not all(repeat is not None and repeat >= 0 for repeat in columns["repeat"]):
        raise ValueError("a row has no key")
    if None in columns["prompt"] or None in columns["seed"]:
        raise ValueError("a row has no prompt or no seed")
    if not all(file is None or is_inside(file) for file in columns["file"]):
        raise ValueError("a row names a file outside its cell")
    known: dict[Any, Any] = {}
    for name in _REPEATED:
        columns[name] = [known.setdefault(value, value) for value in columns[name]]
    for name in ("category", "flags"):
        columns[name] = [known.setdefault(value, value) for value in (tuple(one or ()) for one in columns[name])]
    for name, unknown in (("seconds", 0.0), ("batch_size", 0)):
        columns[name] = [value or unknown for value in columns[name]]
    columns["status"] = [_STATUS.get(str(value)) or Status(str(value)) for value in columns["status"]]
    return list(columns.values())


def is_inside(file: str) -> bool:
    """Return whether a path stays below the folder that it is relative to."""
    if file and file[0] != "/" and ".." not in file and "\0" not in file and os.sep == "/":
        return True
    path = PurePath(file)
    return bool(file) and not path.is_absolute() and ".." not in path.parts and "\0" not in file


def _check_key(record: dict[str, Any]) -> None:
    if not isinstance(record["prompt_id"], str) or not isinstance(record["repeat"], int) or record["repeat"] < 0:
        raise ValueError("a row has no key")


def _stored_score(record: dict[str, Any], known: dict[Any, Any]) -> StoredScore:
    _check_key(record)
    if any(value is None for _, value in record["values"] or ()):
        raise ValueError("a row has a score without a value")
    sha256, baseline = record.pop("sha256"), record.pop("baseline_sha256")
    verdict = Verdict(record["verdict"]) if record["verdict"] is not None else None
    pairs = record["values"] or ()
    names = tuple(name for name, _ in pairs)
    values = Values(known.setdefault(names, names), [value for _, value in pairs])
    label, boxes = known.setdefault(record["label"], record["label"]), _read_boxes(record.get("boxes"))
    row = ScoreRow(**{**record, "values": values, "verdict": verdict, "label": label, "boxes": boxes})
    return StoredScore(row, sha256, baseline)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
