"""Prompt rows from a table or from templates: byte-exact text, fixed order, a bad cell named by its row."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.bench.card import FIELDS, Card, Generate
from harness.bench.ids import safe_ids, source_ids
from harness.errors import HarnessError, InvalidValueError
from harness.lib.reading import parse_json
from harness.lib.table_file import Record, Table
from harness.lib.table_text import AS_LIST
from harness.lib.table_values import is_missing, is_null_text, number, whole_number
from harness.records import PromptRow

_MAX_SEED = 2**64 - 1
_MAX_SIDE = 8192
_REPLACED = "\N{REPLACEMENT CHARACTER}"
_MAX_LIST = 10_000  # characters of a cell that lists categories
_SIDE_STEP = 8  # pixels a latent


def generated(recipe: Generate) -> list[dict[str, str]]:
    """Return one record for every template and value, templates outermost; the value is the category.

    `{}` in a template stands for the value. An id is the template's first word and the value, or the value alone.
    """
    values = recipe.values if recipe.keep_case else tuple(value.lower() for value in recipe.values)
    return [
        {
            "prompt_id": _generated_id(template, value),
            "prompt": template.replace("{}", value),
            "category": value,
            recipe.axis_name: value,
            "template": template,
        }
        for template in recipe.templates
        for value in values
    ]


def _generated_id(template: str, value: str) -> str:
    first = template.split()[0]
    return (value if "{}" in first else f"{first}-{value}").lower()


def field_columns(card: Card, table: Table) -> dict[str, str | None]:
    """Return which column of the table each field is read from, None if it has none. Raises HarnessError.

    A column that the user named must be there; of those that the card names, and of the field's own name, the first
    that is there is taken.
    """
    if not table.records:
        raise HarnessError(f"{table.name} has a header but no rows.")
    columns: dict[str, str | None] = {}
    for name in FIELDS:
        asked = card.asked.get(name)
        if asked is not None:
            columns[name] = table.needed(asked, f"bench.columns.{name}") if asked else None
        else:
            columns[name] = next((column for one in card.names_of(name) if (column := table.column(one))), None)
    if columns["prompt"] is None:
        wanted = " or ".join(dict.fromkeys(card.names_of("prompt")))
        no_header = AS_LIST if len(table.columns) == 1 else "The first row must be the header."
        raise HarnessError(f"{table.name} has no column {wanted}; it has {table.header()}.",
                           f"Set yours with bench.columns.prompt=<column>. {no_header}")
    return columns


def column_notes(card: Card, table: Table, columns: Mapping[str, str | None]) -> list[str]:
    """Return notes on columns found under another spelling, and on missing columns that the card expects."""
    notes = []
    for name, column in columns.items():
        names = (card.asked[name],) if card.asked.get(name) else card.names_of(name)
        if column is not None and column not in names:
            notes.append(f"{table.name}: column '{column}' is read as {name}")
        if column is None and name not in card.asked and card.columns.get(name) and name in ("seed", "guidance"):
            notes.append(f"{table.name}: no column {' or '.join(card.names_of(name))}, so its rows have no {name}")
    return notes


def prompt_rows(card: Card, table: Table, columns: Mapping[str, str | None]) -> Iterator[tuple[str, PromptRow]]:
    """Yield a prompt row for each record, with the id that its file gives it. Raises InvalidValueError (bad cell)."""
    taken = {name for key, name in columns.items() if name and key not in ("width", "height")}
    sources = source_ids([_cell(record, columns["prompt_id"]) for record in table.records], card.ids == "integer")
    for index, (record, source, prompt_id) in enumerate(zip(table.records, sources, safe_ids(sources), strict=True)):
        where = table.row(index)
        yield source, PromptRow(
            prompt_id=prompt_id,
            prompt=_cell(record, columns["prompt"]),
            category=_category(_cell(record, columns["category"]), card.category_separator),
            seed=_seed(_cell(record, columns["seed"]), where),
            guidance=_guidance(_cell(record, columns["guidance"]), where),
            negative_prompt=_negative(_cell(record, columns["negative_prompt"])),
            meta=_meta({key: value for key, value in record.items() if key not in taken}, where),
            size=_size(record, columns, where),
        )


def _cell(record: Record, column: str | None) -> str:
    """Return a field's text; nothing if it has no column."""
    return "" if column is None else record[column]


def _category(text: str, separator: str) -> tuple[str, ...]:
    if is_null_text(text):
        return ()
    parts = _listed(text) or text.split(separator)
    return tuple(part.strip() for part in parts if part.strip())


def _listed(text: str) -> list[str] | None:
    """Return the texts of a list of texts, as JSON has it or as a data frame writes it to CSV; None for anything else.
    """
    if not text.startswith("[") or len(text) > _MAX_LIST:
        return None
    try:
        texts = parse_json(text)
    except ValueError:
        texts = _literal(text)
    return texts if isinstance(texts, list) and all(isinstance(one, str) for one in texts) else None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _negative(text: str) -> str | None:
    return None if not text or is_null_text(text) or text.casefold() in ("none", "null") else text


def _seed(text: str, where: str) -> int | None:
    if is_missing(text):
        return None
    try:
        seed = whole_number(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= _MAX_SEED:
        raise InvalidValueError(f"{where}: seed '{text[:40]}' is not an integer from 0 to 2^64-1, written in full.")
    return seed


def _guidance(text: str, where: str) -> float | None:
    if is_missing(text):
        return None
    try:
        value = number(text)
    except ValueError:
        value = -1.0
    if value < 0:
        raise InvalidValueError(f"{where}: guidance '{text[:40]}' is not a number of at least 0.")
    return value


def _size(record: Record, columns: Mapping[str, str | None], where: str) -> tuple[int, int] | None:
    if columns["width"] is None or columns["height"] is None:
        return None
    texts = record[columns["width"]], record[columns["height"]]
    if all(is_missing(text) for text in texts):
        return None
    sides = [_side(text) for text in texts]
    if any(side % _SIDE_STEP or not _SIDE_STEP <= side <= _MAX_SIDE for side in sides):
        said = " x ".join(text[:20] or "nothing" for text in texts)
        raise InvalidValueError(f"{where}: size {said} is not two multiples of {_SIDE_STEP} up to {_MAX_SIDE}.")
    return sides[0], sides[1]


def _side(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError:
        return 0


def _meta(rest: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the other columns; a column `meta` that holds a JSON object is unpacked. Raises InvalidValueError."""
    packed = rest.pop("meta", None)
    if not packed:
        return rest
    try:
        parsed = parse_json(packed)
    except ValueError:
        return {**rest, "meta": packed}
    if _REPLACED in json.dumps(parsed, ensure_ascii=False) and _REPLACED not in packed:
        raise InvalidValueError(f"{where}: meta has an unpaired surrogate, which cannot be stored.")
    return {**rest, **parsed} if isinstance(parsed, dict) else {**rest, "meta": packed}


def rows_named(numbers: Sequence[int], most: int = 5) -> str:
    """Name rows by their numbers in a message, at most some of them."""
    shown = ", ".join(map(str, numbers[:most]))
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{more}"
