"""Text tables: encoding, separator, and rows that are complete or reported by number."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator

from harness.errors import InvalidValueError

SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}  # in this order
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_TO_UTF8 = "Save it as CSV UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW."
AS_LIST = "To turn a list of prompts, one per line, into a table: (echo prompt; cat FILE) > NEW.tsv"
_OTHER_QUOTES = ("'", "`", "\u2018", "\u201c", "\u201e", "\u00ab")
_SEP_LINE = re.compile(r"\ufeff?\"?sep=(.)\"?\r?\n")  # a first line by which Excel is told what separates


def decoded(data: bytes, name: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with their mark. Raises InvalidValueError.

    Other encodings are not guessed: a wrong guess changes words without an error.
    """
    encoding = next((known for mark, known in _BOMS if data.startswith(mark)), None) or _unmarked_utf16(data) or "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        kind = {"utf-8-sig": "UTF-8", "utf-8": "UTF-8"}.get(encoding, f"{encoding.upper()}, as it begins")
        raise InvalidValueError(f"{name} is not UTF-8 text (line {line}, byte {error.start})." if kind == "UTF-8" else
                                f"{name} is not {kind} (byte {error.start}).", _TO_UTF8) from None


def _unmarked_utf16(data: bytes) -> str | None:
    """Tell UTF-16 without a mark by its header, where every other byte is zero."""
    start = data[:64]
    even, odd = start[0::2], start[1::2]
    if len(start) < 8 or len(data) % 2:
        return None
    if odd.count(0) == len(odd) and not even.count(0):
        return "utf-16-le"
    return "utf-16-be" if even.count(0) == len(even) and not odd.count(0) else None


def split_text(text: str, name: str, tabs: bool, skip_spaces: bool) -> tuple[list[str], list[list[str]], list[str]]:
    """Return header, rows and notes of a text with separators; blank lines are skipped. Raises InvalidValueError.

    The separator is detected from the header alone: prompts may contain any of them.
    """
    csv.field_size_limit(10_000_000)
    said = _SEP_LINE.match(text)
    text = text[said.end():] if said else text.removeprefix("\ufeff")
    separator = said[1] if said else "\t" if tabs else _separator(text)
    spaced = not skip_spaces and _spaces_before_quotes(text, separator)
    rows = _rows(text, name, separator, skip_spaces or spaced)
    _, header = next(rows, (0, []))
    if not header:
        raise InvalidValueError(f"{name} is empty.", "It needs a header and rows.")
    if any("\0" in cell for cell in header):
        raise InvalidValueError(f"{name} has NUL bytes in its header: it is not a text file, or damaged.", _TO_UTF8)
    whole = [_whole(cells, index, line, name, header, separator) for index, (line, cells) in enumerate(rows)]
    if separator == "|" and whole and _is_rule(whole[0]):
        raise InvalidValueError(f"{name} is a Markdown table.", "Save it as CSV in UTF-8.")
    notes = [f"{name}: its cells are separated by {SEPARATORS.get(separator, separator)}"] if separator != "," else []
    return header, whole, notes + [f"{name}: spaces before quotes are ignored"] * spaced


def _separator(text: str) -> str:
    for separator in SEPARATORS:
        try:
            header = next((row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row), [])
        except csv.Error:
            continue
        if len(header) > 1:
            return separator
    return ","


def _spaces_before_quotes(text: str, separator: str) -> bool:
    """Return whether spaces keep quotes from being read as such, in a table that is complete without them."""
    if not re.search(rf'(?:^|{re.escape(separator)}) +"', text, re.MULTILINE):
        return False
    readers = (csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=skip, skipinitialspace=skip)
               for skip in (False, True))
    try:
        kept, skipped = ([[cell.lstrip(" ") for cell in row] for row in reader if row] for reader in readers)
    except csv.Error:
        return False
    return len({len(row) for row in skipped}) == 1 and kept != skipped


def _is_rule(cells: list[str]) -> bool:
    """Return whether a row is the line that Markdown draws under a header."""
    return any(cells) and all(re.fullmatch(r"\s*(:?-+:?)?\s*", cell) for cell in cells)


def _rows(text: str, name: str, separator: str, skip_spaces: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line that it begins in; lines of blanks alone are none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=skip_spaces)
    index, width = -1, 0  # -1: the header
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"row {index}" if index >= 0 else "the header"
            raise InvalidValueError(f"{name} {where} {_said(error)} (line {line}).",
                                    'A quote inside a quoted text is written twice: "".') from None
        if cells and (width < 2 or cells != [cells[0]] or cells[0].strip()):
            yield line, cells
            index, width = index + 1, width or len(cells)


def _said(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "has a quote that never closes, or the file is cut off there"
    if "expected after" in str(error):
        return "has a quote that closes in the middle of a cell, or one before it never closes"
    return f"cannot be read: {error}"


def _whole(cells: list[str], index: int, line: int, name: str, header: list[str], separator: str) -> list[str]:
    """Return the cells if they are as many as the header's. Raises InvalidValueError for others and for NUL bytes."""
    n, m = len(cells), len(header)
    if n > m:
        kind = SEPARATORS.get(separator, separator)
        raise InvalidValueError(f"{name} row {index} has {n} cells, the header {m}: {_surplus(cells, m, kind)} "
                                f"(line {line}; rows count from 0).",
                                "If line 1 is not a header, remove it." if m == 1 else None)
    if n < m:
        raise InvalidValueError(f"{name} row {index} has {n} cells, the header {m}: the row is cut off, or a cell is "
                                f"missing (line {line}; rows count from 0).")
    if any("\0" in cell for cell in cells):
        raise InvalidValueError(f"{name} row {index} has a NUL byte: the file is damaged (line {line}).",
                                "Write or download it again.")
    return cells


def _surplus(cells: list[str], wanted: int, kind: str) -> str:
    """Say what mends a row with more cells than are wanted."""
    if not any(cell.strip() for cell in cells[wanted:]):
        return f"remove the {kind} at the end of the row"
    others = any(cell.lstrip().startswith(_OTHER_QUOTES) for cell in cells)
    return f"put prompts with {kind} in quotes" + (', of this kind: "' if others else "")
