"""Hashes that name things: values as canonical JSON, and the contents of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any


def canonical_json(
    value: Any,
    *,
    spaced: bool = False,
    ascii_only: bool = False,
    finite: bool = False,
    other: Callable[[Any], Any] | None = None,
) -> str:
    """Return JSON with sorted keys: equal values give equal text.

    Cell ids, artifact keys and fingerprints are hashes of this text, so what a caller passes must never change.
    `spaced` puts spaces after separators, `ascii_only` escapes other characters, `finite` raises ValueError for NaN,
    and `other` converts values that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=ascii_only, allow_nan=not finite, default=other,
                      separators=None if spaced else (",", ":"))  # fmt: skip


def text_hash(text: str) -> str:
    """Return the sha256 of a text in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_hash(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value`."""
    return text_hash(canonical_json(value))


def file_hash(path: Path | str) -> str:
    """Return the sha256 of a file in hex; reads all of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_file_hash(path: Path) -> str:
    """Return the sha256 of a file in hex; in this process it is read again only if its size or time has changed."""
    about = path.stat()
    return _cached(str(path), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _cached(path: str, size: int, mtime_ns: int) -> str:
    return file_hash(path)
