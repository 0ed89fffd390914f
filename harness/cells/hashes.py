"""The hash of every file of a cell that no row names: kept beside them, so that a later change is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from harness.errors import InvalidValueError
from harness.lib.atomic import write_atomic
from harness.lib.hashing import file_hash
from harness.lib.reading import read_json

FILE = "hashes.json"
SCHEMA = 1
IMAGES = "images"


def write_hashes(folder: Path) -> None:
    """Write the hashes of a cell's files but for its images, whose rows have theirs. Raises StorageError."""
    files = {path.relative_to(folder).as_posix(): file_hash(path) for path in hashed_files(folder)}
    write_atomic(folder / FILE, f"{json.dumps({'schema': SCHEMA, 'files': files}, indent=1)}\n".encode())


def hashed_files(folder: Path) -> Iterator[Path]:
    """Yield the files that have a hash of their own, by name: no images, no hidden files, no links."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not path.is_symlink() and not hidden and parts[0] not in (IMAGES, FILE):
            yield path


def read_hashes(folder: Path) -> dict[str, str] | None:
    """Return the hashes by file; None where there are none. Raises InvalidValueError for what is no such file."""
    told = read_json(folder / FILE)
    if told is None:
        return None
    files = told.get("files")
    if told.get("schema") != SCHEMA or not isinstance(files, dict) or not all(
            isinstance(value, str) for value in files.values()):
        raise InvalidValueError(f"{folder / FILE} is not of schema {SCHEMA}.")
    return {str(name): value for name, value in files.items()}
