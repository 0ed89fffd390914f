"""The bytes of a user's table, by what they are: text with separators, a workbook, Parquet, JSON records."""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from harness.errors import InvalidValueError
from harness.lib.reading import parse_json
from harness.lib.table_text import AS_LIST, decoded, split_text

MAX_BYTES = 1 << 30  # of what a compressed file unpacks to
JSON_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
AS_CSV = "Save it as CSV in UTF-8."
INDEX = "__index_level_"  # what a data frame's index is called in Parquet
# First bytes of files that are not tables: (bytes, what it is, what to do).
_OTHERS = (
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook (.xls).", "Save it as .xlsx, or as CSV in UTF-8."),
    (b"ARROW1", "is an Arrow file.", "Write it as Parquet or CSV: data_frame.to_csv(FILE, index=False)."),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd).", "Unpack it: unzstd FILE."),
    (b"\xfd7zXZ", "is compressed (xz).", "Unpack it: unxz FILE."),
    (b"BZh", "is compressed (bzip2).", "Unpack it: bunzip2 FILE."),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file.", "Get the file: git lfs pull."),
    (b"\x80", "is a pickle or another binary file, which is not supported.",
     "Write it as CSV: data_frame.to_csv(FILE, index=False)."),
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A header and rows of as many cells, as text. `notes` say what of the reading the user should know.

    `part` says which one it is of several tables in the file.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: list[str] = field(default_factory=list)
    part: str = ""


def read_grid(data: bytes, name: str, suffixes: Sequence[str], skip_spaces: bool) -> Grid:
    """Read a table of any kind that is known by its first bytes or its suffix. Raises InvalidValueError in one line."""
    if data.startswith(b"\x1f\x8b"):
        data = _gunzipped(data, name)
    for begin, problem, remedy in _OTHERS:
        if data.startswith(begin):
            raise InvalidValueError(f"{name} {problem}", remedy)
    if data.startswith(b"PK\x03\x04"):
        return _workbook(data, name)
    if data.startswith(b"PAR1"):
        return _parquet(data, name)
    text = decoded(data, name)
    start = text[:200].lstrip("\ufeff \t\r\n")
    if start.lower().startswith(("<!doctype", "<html", "<?xml", "<table", "<head", "<body", "<div")):
        raise InvalidValueError(f"{name} is a web page or XML, not a table.", "Download the file itself, not its page.")
    if JSON_SUFFIXES & set(suffixes) or re.match(r"\{|\[\s*\{", start):
        return _json(text, name)
    try:
        header, rows, notes = split_text(text, name, tabs=".tsv" in suffixes, skip_spaces=skip_spaces)
    except InvalidValueError as error:
        raise InvalidValueError(str(error.args[0]), AS_LIST if suffixes[-1:] == [".txt"] else error.hint) from None
    return Grid(header, rows, notes)


def _gunzipped(data: bytes, name: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidValueError(f"{name} is a damaged gzip file: {error}.", "Download or write it again.") from None
    if len(unpacked) > MAX_BYTES:
        raise InvalidValueError(f"{name} unpacks to more than {MAX_BYTES >> 30} GB.")
    return unpacked


def _workbook(data: bytes, name: str) -> Grid:
    """Read the first sheet of an .xlsx workbook that holds a header and rows, else anything."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:  # of another version of zip, too
        _damaged(name, "workbook or zip archive", error)
    if "xl/workbook.xml" not in sizes:
        raise InvalidValueError(f"{name} is a zip archive, not a table.",
                                "Unpack it, or save the table as CSV in UTF-8.")
    if sum(sizes.values()) > MAX_BYTES:
        raise InvalidValueError(f"{name} unpacks to more than {MAX_BYTES >> 30} GB.", AS_CSV)
    try:
        values, formulas = _sheets(data, as_values=True), _sheets(data, as_values=False)
    except Exception as error:  # a reader of damaged XML raises almost anything
        _damaged(name, "workbook", error)
    filled = [title for title, rows in formulas.items() if any(map(_holds, rows))]
    if not filled:
        raise InvalidValueError(f"{name} is an empty workbook.")
    title = next((one for one in filled if sum(map(_holds, formulas[one])) > 1), filled[0])
    _check_unmerged(data, title, name)
    pairs = [pair for pair in zip(values[title], formulas[title], strict=False) if _holds(pair[1])]
    rows = [_row(index, *pair, name) for index, pair in enumerate(pairs, start=-1)]  # -1: the header
    width = max(map(len, rows))
    texts = [[cell_text(value) for value in [*row, *[None] * (width - len(row))]] for row in rows]
    if len(filled) == 1:
        return Grid(texts[0], texts[1:])
    return Grid(texts[0], texts[1:], [f"{name}: sheet '{title}' of {len(filled)} is read"],
                f"sheet '{title}' of {len(filled)}")


def _sheets(data: bytes, as_values: bool) -> dict[str, list[list[Any]]]:
    """Return the rows of every sheet, with formulas as they are written or as the values that were stored."""
    from openpyxl import load_workbook

    book = load_workbook(io.BytesIO(data), read_only=True, data_only=as_values)
    return {sheet.title: [list(row) for row in sheet.iter_rows(values_only=True)] for sheet in book.worksheets}


def _check_unmerged(data: bytes, title: str, name: str) -> None:
    """Raise InvalidValueError if cells of a sheet are merged: their value stands in the first one only."""
    from openpyxl import load_workbook

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sheets = [one for one in archive.namelist() if one.startswith("xl/worksheets/") and one.endswith(".xml")]
        if not any(b"<mergeCell" in archive.read(one) for one in sheets):
            return
    try:
        merged = [str(cells) for cells in load_workbook(io.BytesIO(data))[title].merged_cells.ranges]
    except Exception as error:  # as in _workbook
        _damaged(name, "workbook", error)
    if merged:
        raise InvalidValueError(f"{name} has merged cells ({min(merged)}); only the first has a value.",
                                "Unmerge them and fill each, or save the table as CSV in UTF-8.")


def _holds(row: Sequence[Any]) -> bool:
    return any(value is not None and str(value) != "" for value in row)


def _row(index: int, values: list[Any], formulas: list[Any], name: str) -> list[Any]:
    """Return a row's values. Raises InvalidValueError for a formula whose value is not stored."""
    if any(one is None and _holds([two]) for one, two in zip(values, formulas, strict=False)):
        raise InvalidValueError(f"{name} row {index} has a formula without a value.",
                                "Open and save it in Excel, or write a text that begins with = with ' in front.")
    return values


def _parquet(data: bytes, name: str) -> Grid:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
        columns = [column.to_pylist() for column in table.columns]
    except Exception as error:  # as in _workbook
        _damaged(name, "Parquet file", error)
    header = ["" if column.startswith(INDEX) else column for column in table.column_names]
    return Grid(header, [[cell_text(value) for value in row] for row in zip(*columns, strict=True)])


def _json(text: str, name: str) -> Grid:
    """Read a list of objects, or one object a line; a key that an object has not is an empty cell."""
    try:
        records = parse_json(text, unique_keys=True) if text.lstrip().startswith("[") else _json_lines(text)
    except ValueError as error:
        raise InvalidValueError(f"{name} is not JSON records: {error}.",
                                "Write a list of objects, or one object per line.") from None
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records) or _by_column(records):
        raise InvalidValueError(f"{name} is not a list of JSON objects.",
                                "Write one: data_frame.to_json(FILE, orient='records').")
    header = list(dict.fromkeys(key for one in records for key in one))
    return Grid(header, [[cell_text(one.get(key)) for key in header] for one in records])


def _by_column(records: Sequence[dict[str, Any]]) -> bool:
    """Tell columns of cells, as a data frame writes them where nothing else is asked for, from a record."""
    return len(records) == 1 and all(isinstance(value, (dict, list)) for value in records[0].values())


def _json_lines(text: str) -> list[Any]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(parse_json(line, unique_keys=True))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return records


def cell_text(value: Any) -> str:
    """Return a typed cell as text, as a data frame writes it to CSV: nothing for a missing one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _damaged(name: str, kind: str, error: Exception) -> NoReturn:
    told = " ".join(str(error).split())[:120] or type(error).__name__
    raise InvalidValueError(f"{name} is a damaged {kind}: {told}.", AS_CSV) from None
