"""A benchmark's prompts: read, selected and screened; nothing is dropped without a count and a reason."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.bench import screen
from harness.bench.card import Card, find_card
from harness.bench.ids import safe_id
from harness.bench.prompt_set import PromptSet
from harness.bench.rows import column_notes, field_columns, generated, prompt_rows, rows_named
from harness.bench.select import Source, Wanted, ids_hash, list_hash, names_any, select
from harness.bench.settings import PromptSettings
from harness.bench.source import cached_prompt_file, prompt_file, said_source
from harness.errors import HarnessError
from harness.lib.hashing import canonical_json, text_hash
from harness.lib.table_file import Table, file_bytes, parse_table
from harness.lib.table_values import is_null_text
from harness.records import PromptRow

MAX_PROMPT_CHARACTERS = 5_000  # 65 times what a 77-token encoder reads
EMPTY = "empty prompt"
TOO_LONG = f"over {MAX_PROMPT_CHARACTERS} characters"


def load_prompts(bench: Mapping[str, Any], offline: bool = False) -> PromptSet | None:
    """Load the prompts of a bench config. `offline`: return None if the file is not on this machine.

    Raises MissingResourceError (no file), HarnessError (missing column, duplicate ids), InvalidValueError (bad cell).
    """
    asked = PromptSettings.of_bench(bench)
    card, wanted = find_card(asked.card or asked.name, asked.variant), Wanted.of(asked)
    if card.generate and not asked.file:
        path, (table, sha256) = None, _generated(card)
    else:
        path = cached_prompt_file(card, asked.file) if offline else prompt_file(card, asked.file)
        if path is None:
            return None
        data = file_bytes(path)
        table, sha256 = parse_table(data, str(path), path.suffixes), hashlib.sha256(data).hexdigest()
    source = _source(replace(card, asked=asked.asked), table)
    rows = list(source.rows.values())
    chosen = select(source.card, source, wanted)
    whole = select(source.card, source, Wanted(ids=wanted.ids))
    return _screened(bench, source, chosen, wanted, _Origin.of(source.card, path, sha256, rows, whole))


def _source(card: Card, table: Table) -> Source:
    """Read every row of a table. Raises HarnessError for a missing column, a bad cell and an id that is there twice."""
    columns = field_columns(card, table)
    pairs = list(prompt_rows(card, table, columns))
    _check_ids(table, [row for _, row in pairs])
    notes = (*table.notes, *column_notes(card, table, columns), *_id_notes(table, pairs))
    return Source(card, table, {row.prompt_id: row for _, row in pairs},
                  {row.prompt_id: source for source, row in pairs}, notes)


@dataclass(frozen=True)
class _Origin:
    """What is known of the file that the rows came from."""

    n_file: int
    source: str
    sha256: str
    note: str | None
    list_sha256: str
    list_name: str | None
    n_cut: int | None
    other: str | None

    @classmethod
    def of(
        cls, card: Card, path: Path | None, sha256: str, rows: Sequence[PromptRow], whole: Sequence[PromptRow]
    ) -> _Origin:
        named = list_hash(whole)
        cut = card.truncated if sha256 == card.sha256 else None
        of_file, of_list = _file_note(card, sha256, len(rows)) if path else None, _list_note(card, named, whole)
        note = "; ".join(text for text in (of_file, of_list) if text) or None
        other = of_list or (of_file if path and _is_other_file(card, sha256) else None)
        return cls(len(rows), said_source(card, path), sha256, note, named, card.lists.get(named), cut, other)


def _generated(card: Card) -> tuple[Table, str]:
    assert card.generate is not None
    records = generated(card.generate)
    sha256 = text_hash(canonical_json(records, spaced=True, ascii_only=True))
    return Table(f"card {card.name}", tuple(records[0]), tuple(records)), sha256


def _check_ids(table: Table, rows: Sequence[PromptRow]) -> None:
    # Case-folded: on some file systems A.png and a.png are one file.
    places: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(row.prompt_id.casefold(), []).append(index)
    double = {name: numbers for name, numbers in places.items() if len(numbers) > 1}
    if double:
        told = ", ".join(f"{name} ({rows_named(numbers)})" for name, numbers in list(double.items())[:5])
        raise HarnessError(
            f"{table.name} has {len(double)} duplicate prompt ids: {told}.",
            "Every row needs its own id; bench.columns.prompt_id=false numbers the rows.",
        )


def _id_notes(table: Table, pairs: Sequence[tuple[str, PromptRow]]) -> list[str]:
    """Return notes on ids that would collide as file names, and on prompts such as `nan`."""
    hashed = [(source, row.prompt_id) for source, row in pairs if row.prompt_id != safe_id(source)]
    null = [index for index, (_, row) in enumerate(pairs) if is_null_text(row.prompt)]
    notes = [f"{table.name}: {len(hashed)} ids got a hash to keep them apart, such as {hashed[0][1]} for "
             f"'{hashed[0][0][:40]}': their characters are not safe in file names"] if hashed else []
    return notes + ([f"{table.name}: the prompt of {rows_named(null)} looks like a missing value of a data frame; "
                     "it is kept as a prompt"] if null else [])


def _shows(character: str) -> bool:
    """Return whether a character is more than a blank or a mark of zero width."""
    return not character.isspace() and unicodedata.category(character) not in ("Cf", "Cc")


def _reason(row: PromptRow, sexual_set: bool, without: Sequence[str]) -> str | None:
    if not any(map(_shows, row.prompt)):
        return EMPTY
    if len(row.prompt) > MAX_PROMPT_CHARACTERS:
        return TOO_LONG
    if screen.is_excluded(row, sexual_set):
        return screen.REASON
    return "contains a term of bench.without" if names_any(row.prompt, without) else None


def _kept(row: PromptRow, meta: Sequence[str] | None) -> PromptRow:
    """Drop the columns that the card does not keep: after the screen, which reads every text of a row."""
    return row if meta is None else replace(row, meta={key: row.meta[key] for key in meta if key in row.meta})


def _screened(
    bench: Mapping[str, Any], source: Source, rows: Sequence[PromptRow], wanted: Wanted, origin: _Origin
) -> PromptSet:
    name, card = str(bench["name"]), source.card
    reasons = {row.prompt_id: _reason(row, card.sexual, wanted.without) for row in rows}
    used = tuple(_kept(row, card.meta) for row in rows if reasons[row.prompt_id] is None)
    by_reason: dict[str, list[str]] = {}
    for prompt_id, reason in reasons.items():
        if reason:
            by_reason.setdefault(reason, []).append(prompt_id)
    if not used:
        raise HarnessError(
            f"no usable prompt in {name}: {len(rows)} rows, "
            + (", ".join(f"{len(ids)} {reason}" for reason, ids in by_reason.items()) or "none")
            + "."
        )
    return PromptSet(
        name=name,
        rows=used,
        n_file=origin.n_file,
        n_total=len(rows),
        excluded={reason: len(ids) for reason, ids in by_reason.items()},
        excluded_ids={reason: tuple(ids) for reason, ids in by_reason.items()},
        source=origin.source,
        variant=card.variant,
        file_sha256=origin.sha256,
        file_note=origin.note,
        list_sha256=origin.list_sha256,
        list_name=origin.list_name,
        n_duplicate_prompts=len(used) - len({row.prompt for row in used}),
        n_cut=origin.n_cut,
        other_prompts=origin.other,
        read_notes=(*source.notes, *_broken_notes(source, by_reason)),
        sources={prompt_id: source.names[prompt_id] for prompt_id in reasons},
        cells={prompt_id: source.cells(prompt_id) for prompt_id in reasons},
    )


def _broken_notes(source: Source, by_reason: Mapping[str, Sequence[str]]) -> list[str]:
    """Name the rows that cannot be used."""
    number = {prompt_id: index for index, prompt_id in enumerate(source.rows)}
    broken = {reason: ids for reason, ids in by_reason.items() if reason in (EMPTY, TOO_LONG)}
    return [f"{source.table.name}: {reason} in {rows_named([number[one] for one in ids])}"
            for reason, ids in broken.items()]


def _file_note(card: Card, sha256: str, n_rows: int) -> str | None:
    if sha256 == card.sha256:
        return None
    if sha256 in card.known_sha256:
        return card.known_sha256[sha256]
    expected = {card.rows, card.file_rows} - {None}
    count = f"; {n_rows} rows, the card says {card.file_rows}" if expected and n_rows not in expected else ""
    if card.sha256 or card.known_sha256:
        return f"the file differs from the card's (sha256 {sha256[:12]}){count}"
    return f"the card has no hash for this file; recorded: sha256 {sha256[:12]}{count}" if card.rows else None


def _is_other_file(card: Card, sha256: str) -> bool:
    """Return whether a file is not the card's, where no hash of the prompts themselves tells."""
    known = {card.sha256, *card.known_sha256} - {None}
    return card.list_sha256 is None and bool(known) and sha256 not in known


def _list_note(card: Card, named: str, rows: Sequence[PromptRow]) -> str | None:
    if card.select.ids_sha256 and ids_hash(rows) != card.select.ids_sha256:
        return f"the {len(rows)} ids are not the card's {card.select.ids}"
    if card.list_sha256 is None or named == card.list_sha256:
        return None
    return f"the prompts are not the card's list ({named[:12]})"
