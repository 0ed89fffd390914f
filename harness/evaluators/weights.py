"""Files that an evaluator loads: where they are and the hash that names them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from harness.model_files import model_folder

_SHA256 = re.compile(r"[0-9a-f]{64}")


def local_path(source: str) -> Path:
    """Return the path of a file or folder named by a path or by `pkg://package/path`."""
    found = model_folder({"source": source}) if source.startswith("pkg://") else None
    return found or Path(source).expanduser().absolute()


def sha256_of(file: Path) -> str | None:
    """Return a file's sha256, or None where it is absent. Large files of the hub's cache carry theirs as name."""
    if not file.is_file():
        return None
    target = file.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    stat = target.stat()
    return _hashed(str(target), stat.st_size, stat.st_mtime_ns)


def sha256_of_all(files: Iterable[Path]) -> str | None:
    """Return one hash over the names and contents of files, or None where there are none."""
    lines = [f"{file.name} {sha256_of(file)}\n" for file in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


@lru_cache(maxsize=256)
def _hashed(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
