"""Which rows of a file a benchmark is made of, and the hash that names a list of prompts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.card import Card
from harness.errors import HarnessError, InvalidValueError, MissingResourceError, unknown_name
from harness.records import PromptRow
from harness.settings import check_list


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
    def of(cls, bench: Mapping[str, Any]) -> Wanted:
        categories, where = bench.get("categories"), bench.get("where")
        if where is not None and not isinstance(where, Mapping):
            raise InvalidValueError(f"bench.where={where!r}: {{column: value}} is needed.")
        return cls(
            categories=None if categories is None else _texts("bench.categories", categories),
            where=None if where is None else {str(key): str(value) for key, value in where.items()},
            ids=_ids(bench.get("ids")),
            without=_texts("bench.without", bench.get("without") or []),
        )


def select(card: Card, rows: Sequence[PromptRow], wanted: Wanted, where: Path) -> list[PromptRow]:
    """Return the rows of the card's benchmark that the bench wants, in the file's order. Raises HarnessError."""
    chosen = _by_position(card, rows, where)
    chosen = _by_category(chosen, card.select.categories)
    chosen = _by_category(chosen, wanted.categories)
    for column, value in {**(card.select.where or {}), **(wanted.where or {})}.items():
        chosen = _by_value(chosen, column, str(value), where)
    chosen = _by_id(chosen, wanted.ids, where)
    if card.select.ids and wanted.ids is None and len(chosen) > card.select.ids:
        raise HarnessError(
            f"{card.name} is {card.select.ids} rows and {where} has {len(chosen)}.",
            "Name them with bench.ids=<a file with one id a line>.",
        )
    return chosen


def names_any(prompt: str, terms: Iterable[str]) -> bool:
    """Say whether `prompt` holds one of the terms as whole words, in any case."""
    return any(re.search(rf"(?<!\w){re.escape(term)}(?!\w)", prompt, re.IGNORECASE) for term in terms)


def list_hash(rows: Iterable[PromptRow]) -> str:
    """Return sha256 over `seed<tab>prompt` lines, white space made single: copies of one list agree."""
    digest = hashlib.sha256()
    for row in rows:
        seed = "" if row.seed is None else row.seed
        digest.update(f"{seed}\t{' '.join(row.prompt.split())}\n".encode())
    return digest.hexdigest()


def ids_hash(rows: Iterable[PromptRow]) -> str | None:
    """Return sha256 of the rows' ids as ascending numbers, one a line; None where an id is no number."""
    ids = [row.prompt_id for row in rows]
    if not all(name.isdecimal() for name in ids):
        return None
    return hashlib.sha256("\n".join(map(str, sorted(map(int, ids)))).encode()).hexdigest()


def _texts(name: str, values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in check_list(name, values))


def _ids(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return _texts("bench.ids", value)
    path = Path(value).expanduser()
    if not path.is_file():
        raise MissingResourceError(f"no file of ids at {path}.", "Give bench.ids=<a file with one id a line>.")
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def _by_position(card: Card, rows: Sequence[PromptRow], where: Path) -> list[PromptRow]:
    """Cut the range out of the whole file; a file that holds no more than the range is taken as it is."""
    if card.select.positions is None:
        return list(rows)
    start, stop = card.select.positions
    if len(rows) <= stop - start:
        return list(rows)
    if len(rows) < stop:
        raise HarnessError(
            f"{where} has {len(rows)} rows: neither the {stop - start} of {card.name} nor the {card.file_rows} "
            "that they are cut from.",
            "Give bench.file=<one of the two>, or another bench.variant.",
        )
    return list(rows[start:stop])


def _by_category(rows: list[PromptRow], categories: Sequence[str] | None) -> list[PromptRow]:
    if categories is None:
        return rows
    known = {name for row in rows for name in row.category}
    for name in categories:
        if name not in known:
            raise unknown_name("category", name, known)
    return [row for row in rows if set(row.category) & set(categories)]


def _by_value(rows: list[PromptRow], column: str, value: str, where: Path) -> list[PromptRow]:
    columns = list(rows[0].meta) if rows else []
    if rows and column not in columns:
        raise unknown_name(f"column of {where}", column, columns)
    return [row for row in rows if _same(row.meta[column], value)]


def _same(cell: Any, value: str) -> bool:
    """Compare as numbers where both are: 1 is 1.0, which a data frame makes of it."""
    try:
        return float(cell) == float(value)
    except (TypeError, ValueError):
        return str(cell) == value


def _by_id(rows: list[PromptRow], ids: Sequence[str] | None, where: Path) -> list[PromptRow]:
    if ids is None:
        return rows
    missing = sorted(set(ids) - {row.prompt_id for row in rows})
    if missing:
        raise HarnessError(f"{len(missing)} of {len(set(ids))} ids are not in {where}: {', '.join(missing[:5])}.")
    return [row for row in rows if row.prompt_id in set(ids)]
