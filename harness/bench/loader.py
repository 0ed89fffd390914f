"""Read prompt rows from CSV: byte-exact text, fixed order, nothing dropped without a count and a reason."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.bench import screen
from harness.bench.card import Card, cached_prompt_file, find_card, prompt_file
from harness.errors import HarnessError, InvalidValueError
from harness.records import PromptRow

MAX_PROMPT_CHARACTERS = 5_000  # 65 times what a 77-token encoder reads
_ID_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]")
_MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class PromptSet:
    """The rows of a bench that are used, what was left out and why, and the hash that names the list."""

    name: str
    rows: tuple[PromptRow, ...]
    n_total: int
    excluded: Mapping[str, int]
    excluded_ids: Mapping[str, tuple[str, ...]]
    file_sha256: str
    file_note: str | None
    n_duplicate_prompts: int

    @cached_property
    def hash(self) -> str:
        """Return sha256 over every field of every used row."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(vars(row), sort_keys=True, ensure_ascii=False, default=str).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    def counts(self) -> dict[str, Any]:
        return {
            "n_total": self.n_total,
            "n_used": len(self.rows),
            "n_excluded": self.n_total - len(self.rows),
            "excluded": dict(self.excluded),
            "screen": screen.VERSION,
            "n_duplicate_prompts": self.n_duplicate_prompts,
            "file_sha256": self.file_sha256,
            "file_note": self.file_note,
        }


def load_prompts(bench: Mapping[str, Any], offline: bool = False) -> PromptSet | None:
    """Load the prompts of a bench config. `offline`: return None where the file is not on this machine.

    Raises MissingResourceError (no file), HarnessError (missing column, duplicate ids), InvalidValueError (bad cell).
    """
    card = find_card(str(bench.get("card") or bench["name"]))
    path = cached_prompt_file(card, bench.get("file")) if offline else prompt_file(card, bench.get("file"))
    if path is None:
        return None
    card = _with_columns(card, bench.get("columns"))
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    records = _read_csv(path, data)
    rows = list(_rows(card, path, records))
    _check_ids(path, rows)
    return _screened(str(bench["name"]), card, rows, sha256, _file_note(card, sha256, len(rows)))


def _with_columns(card: Card, columns: Mapping[str, str] | None) -> Card:
    if not columns:
        return card
    own = {key: (str(value),) for key, value in columns.items() if value}
    return Card(**{**{f: getattr(card, f) for f in card.__dataclass_fields__}, "columns": {**card.columns, **own}})


def _read_csv(path: Path, data: bytes) -> list[dict[str, str]]:
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


def _column(card: Card, field_name: str, header: Sequence[str]) -> str | None:
    return next((name for name in card.names_of(field_name) if name in header), None)


def _rows(card: Card, path: Path, records: Sequence[dict[str, str]]) -> Iterator[PromptRow]:
    header = list(records[0]) if records else []
    columns = {
        name: _column(card, name, header)
        for name in ("prompt_id", "prompt", "category", "seed", "guidance", "negative_prompt")
    }
    if columns["prompt"] is None:
        wanted = " or ".join(dict.fromkeys(card.names_of("prompt")))
        raise HarnessError(
            f"{path} has no column {wanted}; it has {', '.join(map(str, header)) or 'no rows'}.",
            "Name yours with bench.columns.prompt=<column>.",
        )
    taken = {name for name in columns.values() if name}
    for number, record in enumerate(records):
        yield PromptRow(
            prompt_id=_prompt_id(record, columns["prompt_id"], number),
            prompt=record[columns["prompt"]] or "",
            category=_category(record, columns["category"], card.category_separator),
            seed=_seed(record, columns["seed"], path, number),
            guidance=_guidance(record, columns["guidance"], path, number),
            negative_prompt=record.get(columns["negative_prompt"] or "") or None,
            meta=_meta({key: value for key, value in record.items() if key not in taken}),
        )


def _prompt_id(record: Mapping[str, str], column: str | None, number: int) -> str:
    """Return the source's id made safe for a file name; characters outside [A-Za-z0-9._-] become `-`."""
    text = record.get(column or "") or f"{number:05d}"
    return _ID_CHARACTERS.sub("-", text.strip())[:100]


def _category(record: Mapping[str, str], column: str | None, separator: str) -> tuple[str, ...]:
    text = record.get(column or "") or ""
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _seed(record: Mapping[str, str], column: str | None, path: Path, number: int) -> int | None:
    text = record.get(column or "")
    if not text:
        return None
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= _MAX_SEED:
        raise InvalidValueError(f"{path} row {number}: seed '{text[:40]}' is not an integer from 0 to 2^64-1.")
    return seed


def _guidance(record: Mapping[str, str], column: str | None, path: Path, number: int) -> float | None:
    text = record.get(column or "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise InvalidValueError(f"{path} row {number}: guidance '{text[:40]}' is not a number from 0.")
    return value


def _meta(rest: dict[str, Any]) -> dict[str, Any]:
    """Return the other columns; a column `meta` that holds a JSON object is unpacked."""
    packed = rest.pop("meta", None)
    rest = {str(key): value for key, value in rest.items() if key}
    if not packed:
        return rest
    try:
        return {**rest, **json.loads(packed)}
    except (json.JSONDecodeError, TypeError):
        return {**rest, "meta": packed}


def _check_ids(path: Path, rows: Sequence[PromptRow]) -> None:
    # Case-folded: on some file systems A.png and a.png are one file.
    counts = Counter(row.prompt_id.casefold() for row in rows)
    double = [name for name, count in counts.items() if count > 1]
    if double:
        raise HarnessError(
            f"{path} has {len(double)} duplicate prompt ids: {', '.join(double[:5])}.",
            "Every row needs its own id; leave the column out to number the rows.",
        )


def _reason(row: PromptRow, sexual_set: bool) -> str | None:
    if not row.prompt.strip():
        return "empty prompt"
    if len(row.prompt) > MAX_PROMPT_CHARACTERS:
        return f"over {MAX_PROMPT_CHARACTERS} characters"
    return "age-related term in a sexual context" if screen.is_excluded(row, sexual_set) else None


def _screened(name: str, card: Card, rows: Sequence[PromptRow], sha256: str, note: str | None) -> PromptSet:
    reasons = {row.prompt_id: _reason(row, card.sexual) for row in rows}
    used = tuple(row for row in rows if reasons[row.prompt_id] is None)
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
        n_total=len(rows),
        excluded={reason: len(ids) for reason, ids in by_reason.items()},
        excluded_ids={reason: tuple(ids) for reason, ids in by_reason.items()},
        file_sha256=sha256,
        file_note=note,
        n_duplicate_prompts=len(used) - len({row.prompt for row in used}),
    )


def _file_note(card: Card, sha256: str, n_rows: int) -> str | None:
    if sha256 == card.sha256:
        return None
    if sha256 in card.known_sha256:
        return card.known_sha256[sha256]
    if card.sha256 or card.known_sha256:
        count = f"; {n_rows} rows, the card says {card.rows}" if card.rows and card.rows != n_rows else ""
        return f"file is not the one the card names (sha256 {sha256[:12]}){count}"
    return None
