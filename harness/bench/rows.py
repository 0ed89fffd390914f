"""Prompt rows from CSV or templates: byte-exact text, fixed order, a bad cell named by its row."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.bench.card import FIELDS, Card, Generate
from harness.errors import HarnessError, InvalidValueError
from harness.records import PromptRow

_ID_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]")
_MAX_SEED = 2**64 - 1
_MAX_SIDE = 8192
_SIDE_STEP = 8  # pixels a latent

Record = dict[str, Any]


def read_csv(path: Path, data: bytes) -> list[Record]:
    """Return the rows of a CSV file in UTF-8, every cell as text. Raises HarnessError."""
    csv.field_size_limit(10_000_000)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as CSV in UTF-8.") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return list(reader)
    except csv.Error as error:
        raise HarnessError(f"{path} line {reader.line_num}: {error}.") from None


def generated(recipe: Generate) -> list[Record]:
    """Return one record for every template and value, templates outermost; the value is the category.

    `{}` in a template stands for the value. An id is the template's first word and the value, or the value alone.
    """
    values = recipe.values if recipe.keep_case else tuple(value.lower() for value in recipe.values)
    return [
        {
            "prompt_id": _generated_id(template, value),
            "prompt": template.replace("{}", value),
            "category": value,
            recipe.axis: value,
            "template": template,
        }
        for template in recipe.templates
        for value in values
    ]


def _generated_id(template: str, value: str) -> str:
    first = template.split()[0]
    return (value if "{}" in first else f"{first}-{value}").lower()


def prompt_rows(card: Card, path: Path, records: Sequence[Record]) -> Iterator[PromptRow]:
    """Yield a prompt row for each record. Raises HarnessError (no prompt column) and InvalidValueError (bad cell)."""
    header = list(records[0]) if records else []
    columns = {name: _column(card, name, header) for name in FIELDS}
    if columns["prompt"] is None:
        wanted = " or ".join(dict.fromkeys(card.names_of("prompt")))
        raise HarnessError(
            f"{path} has no column {wanted}; it has {', '.join(map(str, header)) or 'no rows'}.",
            "Name yours with bench.columns.prompt=<column>.",
        )
    taken = {name for key, name in columns.items() if name and key not in ("width", "height")}
    for number, record in enumerate(records):
        where = f"{path} row {number}"
        rest = {k: v for k, v in record.items() if k not in taken}
        yield PromptRow(
            prompt_id=_prompt_id(record, columns["prompt_id"], number, card.ids),
            prompt=record[columns["prompt"]] or "",
            category=_category(record, columns["category"], card.category_separator),
            seed=_seed(record.get(columns["seed"] or ""), where),
            guidance=_guidance(record.get(columns["guidance"] or ""), where),
            negative_prompt=record.get(columns["negative_prompt"] or "") or None,
            meta=_meta(rest),
            size=_size(record.get(columns["width"] or ""), record.get(columns["height"] or ""), where),
        )


def _column(card: Card, field_name: str, header: Sequence[str]) -> str | None:
    return next((name for name in card.names_of(field_name) if name in header), None)


def _prompt_id(record: Record, column: str | None, number: int, kind: str) -> str:
    """Return the source's id made safe for a file name; characters outside [A-Za-z0-9._-] become `-`."""
    text = (record.get(column or "") or f"{number:05d}").strip()
    if kind == "integer" and text.isdecimal():
        text = str(int(text))  # one copy of COCO's ids is padded with zeros
    return _ID_CHARACTERS.sub("-", text)[:100]


def _category(record: Record, column: str | None, separator: str) -> tuple[str, ...]:
    text = record.get(column or "") or ""
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _seed(text: str | None, where: str) -> int | None:
    if not text:
        return None
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= _MAX_SEED:
        raise InvalidValueError(f"{where}: seed '{text[:40]}' is not an integer from 0 to 2^64-1.")
    return seed


def _guidance(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise InvalidValueError(f"{where}: guidance '{text[:40]}' is not a number from 0.")
    return value


def _size(width: str | None, height: str | None, where: str) -> tuple[int, int] | None:
    if not width or not height:
        return None
    sides = [int(text) if text.isdecimal() else 0 for text in (width, height)]
    if any(side % _SIDE_STEP or not _SIDE_STEP <= side <= _MAX_SIDE for side in sides):
        said = f"{width[:20]} x {height[:20]}"
        raise InvalidValueError(f"{where}: size {said} is not two multiples of {_SIDE_STEP} up to {_MAX_SIDE}.")
    return sides[0], sides[1]


def _meta(rest: Record) -> Record:
    """Return the other columns; a column `meta` that holds a JSON object is unpacked."""
    packed = rest.pop("meta", None)
    rest = {str(key): value for key, value in rest.items() if key}
    if not packed:
        return rest
    try:
        return {**rest, **json.loads(packed)}
    except (json.JSONDecodeError, TypeError):
        return {**rest, "meta": packed}
