"""The prompts of a bench after selection, counted and identified by hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.bench import screen
from harness.lib.formatting import counted
from harness.lib.hashing import canonical_json
from harness.records import PromptRow


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
    variant: str | int | float | None
    file_sha256: str
    file_note: str | None
    list_sha256: str
    list_name: str | None
    n_duplicate_prompts: int
    n_cut: int | None  # prompts of the file that CLIP cuts, where the card counts them
    other_prompts: str | None = None  # why they are not the card's, where its hashes tell
    read_notes: tuple[str, ...] = ()  # how the file was read, and what of it is broken
    # By prompt id, those of excluded rows too: what the file calls it, and its cells by column.
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)
    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def hash(self) -> str:
        """Return sha256 over every field of every used row; `meta` holds the columns that `size` is read from."""
        digest = hashlib.sha256()
        for row in self.rows:
            fields = {key: value for key, value in vars(row).items() if key != "size"}
            digest.update(canonical_json(fields, spaced=True, other=str).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    @cached_property
    def ids(self) -> str:
        """Return the ids of all rows, those that are excluded too, one per line."""
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
        """Return the plan's notes: which rows are used, exclusions, duplicates, and a file that is not the card's."""
        notes = [f"{self.name}: {self.n_total} of the file's {self.n_file} rows"] if self.n_total < self.n_file else []
        notes += [f"{counted(count, 'prompt')} excluded: {_versioned(reason)}"
                  for reason, count in self.excluded.items()]
        if self.n_duplicate_prompts:
            notes.append(f"{self.name}: {counted(self.n_duplicate_prompts, 'duplicate prompt')}, kept")
        if self.n_cut:
            cut = f"{self.n_cut} of {self.n_file} prompts exceed CLIP's token limit"
            notes.append(f"{self.name}: {cut}; images of truncated prompts are flagged")
        notes += [f"{self.name}: the list is {self.list_name}"] if self.list_name else []
        return [*notes, *([self.file_note] if self.file_note else []), *self.read_notes]


def _versioned(reason: str) -> str:
    return f"{reason} ({screen.VERSION})" if reason == screen.REASON else reason
