"""The prompts of a bench: read, selected and screened; nothing dropped without a count and a reason."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.bench import screen
from harness.bench.card import FIELDS, Card, Generate, find_card
from harness.bench.rows import generated, prompt_rows, read_csv
from harness.bench.select import Wanted, ids_hash, list_hash, names_any, select
from harness.bench.source import cached_prompt_file, prompt_file, said_source
from harness.errors import HarnessError, unknown_name
from harness.records import PromptRow

MAX_PROMPT_CHARACTERS = 5_000  # 65 times what a 77-token encoder reads
# Of a bench's config, what its prompts depend on.
PROMPT_KEYS = ("name", "card", "variant", "file", "columns", "categories", "where", "ids", "without")


@dataclass(frozen=True)
class PromptSet:
    """The rows of a bench that are used, what was left out and why, and the hashes that name file and list."""

    name: str
    rows: tuple[PromptRow, ...]
    n_file: int
    n_total: int
    excluded: Mapping[str, int]
    excluded_ids: Mapping[str, tuple[str, ...]]
    source: str
    variant: str | None
    file_sha256: str
    file_note: str | None
    list_sha256: str
    list_name: str | None
    n_duplicate_prompts: int
    n_cut: int | None  # prompts of the file that CLIP cuts, where the card counts them
    excluded_meta: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)  # of excluded rows, by id

    @cached_property
    def hash(self) -> str:
        """Return sha256 over every field of every used row; `meta` holds the columns that `size` is read from."""
        digest = hashlib.sha256()
        for row in self.rows:
            fields = {key: value for key, value in vars(row).items() if key != "size"}
            digest.update(json.dumps(fields, sort_keys=True, ensure_ascii=False, default=str).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    @cached_property
    def ids(self) -> str:
        """Return the ids of all rows, those that are excluded too, one a line."""
        excluded = (name for names in self.excluded_ids.values() for name in names)
        return "\n".join([*(row.prompt_id for row in self.rows), *excluded])

    def counts(self) -> dict[str, Any]:
        return {
            "n_file": self.n_file,
            "n_total": self.n_total,
            "n_used": len(self.rows),
            "n_excluded": self.n_total - len(self.rows),
            "excluded": dict(self.excluded),
            "screen": screen.VERSION,
            "n_duplicate_prompts": self.n_duplicate_prompts,
            "source": self.source,
            "variant": self.variant,
            "file_sha256": self.file_sha256,
            "file_note": self.file_note,
            "list_sha256": self.list_sha256,
            "list": self.list_name,
        }

    def notes(self) -> list[str]:
        """Say what a plan should: which rows these are, what is left out, duplicates, and a file that is another."""
        notes = [f"{self.name}: {self.n_total} of the file's {self.n_file} rows"] if self.n_total < self.n_file else []
        notes += [f"{count} prompts excluded: {_versioned(reason)}" for reason, count in self.excluded.items()]
        if self.n_duplicate_prompts:
            notes.append(f"{self.name}: {self.n_duplicate_prompts} prompts repeat another one; they are kept")
        if self.n_cut:
            cut = f"{self.n_cut} of {self.n_file} prompts are longer than CLIP reads"
            notes.append(f"{self.name}: {cut}; images of cut prompts are flagged")
        notes += [f"{self.name}: the list is {self.list_name}"] if self.list_name else []
        return [*notes, self.file_note] if self.file_note else notes


def load_prompts(bench: Mapping[str, Any], offline: bool = False) -> PromptSet | None:
    """Load the prompts of a bench config. `offline`: return None where the file is not on this machine.

    Raises MissingResourceError (no file), HarnessError (missing column, duplicate ids), InvalidValueError (bad cell).
    """
    card = find_card(str(bench.get("card") or bench["name"]), bench.get("variant"))
    wanted = Wanted.of(bench)
    if card.generate and not bench.get("file"):
        path, records, sha256 = None, *_generated(card.generate)
    else:
        path = cached_prompt_file(card, bench.get("file")) if offline else prompt_file(card, bench.get("file"))
        if path is None:
            return None
        data = path.read_bytes()
        records, sha256 = read_csv(path, data), hashlib.sha256(data).hexdigest()
    card, where = _with_columns(card, bench.get("columns")), path or Path(f"card {card.name}")
    rows = list(prompt_rows(card, where, records))
    _check_ids(where, rows)
    chosen = select(card, rows, wanted, where)
    whole = select(card, rows, Wanted(ids=wanted.ids), where)
    return _screened(bench, card, chosen, wanted, _Origin.of(card, path, sha256, rows, whole))


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

    @classmethod
    def of(
        cls, card: Card, path: Path | None, sha256: str, rows: Sequence[PromptRow], whole: Sequence[PromptRow]
    ) -> _Origin:
        named = list_hash(whole)
        cut = card.truncated if sha256 == card.sha256 else None
        found = [_file_note(card, sha256, len(rows)) if path else None, _list_note(card, named, whole)]
        note = "; ".join(text for text in found if text) or None
        return cls(len(rows), said_source(card, path), sha256, note, named, card.lists.get(named), cut)


def _generated(recipe: Generate) -> tuple[list[dict[str, Any]], str]:
    records = generated(recipe)
    return records, hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def _with_columns(card: Card, columns: Mapping[str, str] | None) -> Card:
    for key in columns or {}:
        if key not in FIELDS:
            raise unknown_name("field in bench.columns", str(key), FIELDS)
    own = {key: (str(value),) for key, value in (columns or {}).items() if value}
    return replace(card, columns={**card.columns, **own})


def _check_ids(path: Path, rows: Sequence[PromptRow]) -> None:
    # Case-folded: on some file systems A.png and a.png are one file.
    counts = Counter(row.prompt_id.casefold() for row in rows)
    double = [name for name, count in counts.items() if count > 1]
    if double:
        raise HarnessError(
            f"{path} has {len(double)} duplicate prompt ids: {', '.join(double[:5])}.",
            "Every row needs its own id; leave the column out to number the rows.",
        )


def _reason(row: PromptRow, sexual_set: bool, without: Sequence[str]) -> str | None:
    if not row.prompt.strip():
        return "empty prompt"
    if len(row.prompt) > MAX_PROMPT_CHARACTERS:
        return f"over {MAX_PROMPT_CHARACTERS} characters"
    if screen.is_excluded(row, sexual_set):
        return screen.REASON
    return "names a term of bench.without" if names_any(row.prompt, without) else None


def _kept(row: PromptRow, meta: Sequence[str] | None) -> PromptRow:
    """Drop the columns that the card does not keep: after the screen, which reads every text of a row."""
    return row if meta is None else replace(row, meta={key: row.meta[key] for key in meta if key in row.meta})


def _versioned(reason: str) -> str:
    return f"{reason} ({screen.VERSION})" if reason == screen.REASON else reason


def _screened(
    bench: Mapping[str, Any], card: Card, rows: Sequence[PromptRow], wanted: Wanted, origin: _Origin
) -> PromptSet:
    name = str(bench["name"])
    reasons = {row.prompt_id: _reason(row, card.sexual, wanted.without) for row in rows}
    used = tuple(_kept(row, card.meta) for row in rows if reasons[row.prompt_id] is None)
    by_reason: dict[str, list[str]] = {}
    for prompt_id, reason in reasons.items():
        if reason:
            by_reason.setdefault(reason, []).append(prompt_id)
    if not used:
        raise HarnessError(
            f"no usable prompt is left in {name}: {len(rows)} rows, "
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
        excluded_meta={row.prompt_id: _kept(row, card.meta).meta for row in rows if reasons[row.prompt_id]},
    )


def _file_note(card: Card, sha256: str, n_rows: int) -> str | None:
    if sha256 == card.sha256:
        return None
    if sha256 in card.known_sha256:
        return card.known_sha256[sha256]
    expected = {card.rows, card.file_rows} - {None}
    count = f"; {n_rows} rows, the card says {card.file_rows}" if expected and n_rows not in expected else ""
    if card.sha256 or card.known_sha256:
        return f"file is not the one the card names (sha256 {sha256[:12]}){count}"
    return f"the card knows no hash of this file; it is recorded (sha256 {sha256[:12]}){count}" if card.rows else None


def _list_note(card: Card, named: str, rows: Sequence[PromptRow]) -> str | None:
    if card.select.ids_sha256 and ids_hash(rows) != card.select.ids_sha256:
        return f"the {len(rows)} ids are not the {card.select.ids} that the card names"
    if card.list_sha256 is None or named == card.list_sha256:
        return None
    return f"the prompts are not the list that the card names ({named[:12]})"
