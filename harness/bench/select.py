"""Which rows of a file a benchmark is made of, and the hash that names a list of prompts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.bench.card import Card
from harness.bench.ids import IdFinder
from harness.bench.settings import PromptSettings
from harness.checks import user_path
from harness.errors import HarnessError, MissingResourceError, unknown_name
from harness.lib.table_file import Record, Table, text_lines
from harness.records import PromptRow
from harness.setting_types import Scalar


@dataclass(frozen=True)
class Source:
    """A table as a card reads it: its rows by prompt id, in order, and what the table itself calls each id."""

    card: Card
    table: Table
    rows: Mapping[str, PromptRow]
    names: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def cells(self, prompt_id: str) -> dict[str, Any]:
        """Return a row's cells by column, and what is packed in its column `meta`."""
        return {**self._records[prompt_id], **self.rows[prompt_id].meta}

    @cached_property
    def _records(self) -> dict[str, Record]:
        return dict(zip(self.rows, self.table.records, strict=True))

    def column(self, name: str) -> str | None:
        """Return the column or packed value of this name, as `Table.column`."""
        return name if any(name in row.meta for row in self.rows.values()) else self.table.column(name)


@dataclass(frozen=True)
class Wanted:
    """What a bench's config asks of its card's rows. None means: no restriction.

    `ids` are prompt ids; rows whose prompt names one of `without`, as a word, are excluded and counted.
    """

    categories: tuple[str, ...] | None = None
    where: Mapping[str, str] | None = None
    ids: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: PromptSettings) -> Wanted:
        return cls(
            categories=None if asked.categories is None else _texts(asked.categories),
            where=None if asked.where is None else {str(key): str(value) for key, value in asked.where.items()},
            ids=_ids(asked.ids),
            without=_texts(asked.without or ()),
        )


def select(card: Card, source: Source, wanted: Wanted) -> list[PromptRow]:
    """Return the rows of the card's benchmark that the bench wants, in the file's order. Raises HarnessError."""
    where = source.table.name
    chosen = _by_position(card, list(source.rows.values()), where)
    chosen = _by_category(chosen, card.select.categories, where)
    chosen = _by_category(chosen, wanted.categories, where)
    pairs: dict[Any, Any] = {**(card.select.where or {}), **(wanted.where or {})}
    for column, value in pairs.items():
        chosen = _by_value(source, chosen, str(column), str(value))
    chosen = _by_id(source, chosen, wanted.ids)
    if card.select.ids and wanted.ids is None and len(chosen) > card.select.ids:
        raise HarnessError(
            f"{card.name} has {card.select.ids} rows, but {where} has {len(chosen)}.",
            "List them with bench.ids=<a file with one id per line>.",
        )
    return chosen


def names_any(prompt: str, terms: Iterable[str]) -> bool:
    """Return whether `prompt` holds one of the terms as whole words, in any case."""
    return any(re.search(rf"(?<!\w){re.escape(term)}(?!\w)", prompt, re.IGNORECASE) for term in terms)


def list_hash(rows: Iterable[PromptRow]) -> str:
    """Return sha256 over `seed<tab>prompt` lines, white space made single: copies of one list agree."""
    digest = hashlib.sha256()
    for row in rows:
        seed = "" if row.seed is None else row.seed
        digest.update(f"{seed}\t{' '.join(row.prompt.split())}\n".encode())
    return digest.hexdigest()


def ids_hash(rows: Iterable[PromptRow]) -> str | None:
    """Return sha256 of the rows' ids as ascending numbers, one per line; None if an id is not a number."""
    ids = [row.prompt_id for row in rows]
    if not all(name.isdecimal() for name in ids):
        return None
    return hashlib.sha256("\n".join(map(str, sorted(map(int, ids)))).encode()).hexdigest()


def _texts(values: Sequence[Scalar]) -> tuple[str, ...]:
    return tuple(map(str, values))


def _ids(value: str | Sequence[Scalar] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return _texts(value)
    path = user_path("bench.ids", value)
    if not path.is_file():
        raise MissingResourceError(f"no file of ids at {path}.", "Set bench.ids=<a file with one id per line>.")
    return tuple(text_lines(path))


def _by_position(card: Card, rows: Sequence[PromptRow], where: str) -> list[PromptRow]:
    """Cut the range out of the whole file; a file that holds no more than the range is taken as it is."""
    if card.select.positions is None:
        return list(rows)
    start, stop = card.select.positions
    if len(rows) <= stop - start:
        return list(rows)
    if len(rows) < stop:
        raise HarnessError(
            f"{where} has {len(rows)} rows: expected the {stop - start} of {card.name}, or the {card.file_rows} "
            "that they are taken from.",
            "Set bench.file to one of the two, or use another bench.variant.",
        )
    return list(rows[start:stop])


def _by_category(rows: list[PromptRow], categories: Sequence[str] | None, where: str) -> list[PromptRow]:
    if categories is None:
        return rows
    known = {name for row in rows for name in row.category}
    if not known:
        raise HarnessError(f"no row in {where} has a category.", "Set their column with bench.columns.category.")
    for name in categories:
        if name not in known:
            raise unknown_name("category", name, known)
    return [row for row in rows if set(row.category) & set(categories)]


def _by_value(source: Source, rows: list[PromptRow], column: str, value: str) -> list[PromptRow]:
    name = source.column(column)
    if name is None:
        raise unknown_name(f"column of {source.table.name}", column, source.cells(next(iter(source.rows))))
    return [row for row in rows if _same(source.cells(row.prompt_id).get(name), value)]


def _same(cell: Any, value: str) -> bool:
    """Compare as numbers where both are: 1 is 1.0, which a data frame makes of it. True is TRUE, a spreadsheet's."""
    try:
        return float(cell) == float(value)
    except (TypeError, ValueError):
        text, value = str(cell).strip(), value.strip()
        return text == value or (text.casefold() == value.casefold() and value.casefold() in ("true", "false"))


def _by_id(source: Source, rows: list[PromptRow], ids: Sequence[str] | None) -> list[PromptRow]:
    if ids is None:
        return rows
    finder = IdFinder({row.prompt_id: source.names[row.prompt_id] for row in rows})
    prompt_ids = {name: finder.find(name) for name in ids}
    missing = sorted(name for name, prompt_id in prompt_ids.items() if prompt_id is None)
    if missing:
        raise HarnessError(f"{len(missing)} of {len(prompt_ids)} ids are not in {source.table.name}: "
                           f"{', '.join(missing[:5])}.")
    wanted = set(prompt_ids.values())
    return [row for row in rows if row.prompt_id in wanted]
