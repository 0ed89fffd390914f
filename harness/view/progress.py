"""How far a cell is that has no summary yet: counted in its row files, each read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class Progress:
    """Counts the rows of unfinished cells."""

    def __init__(self) -> None:
        self._known: dict[Path, int] = {}

    def of(self, folder: Path) -> dict[str, Any] | None:
        """Return how many images have a row so far, and when the last one was written; None before the first."""
        files = [path for path in folder.glob("rows/*.parquet") if not path.name.startswith(".")]
        if not files:
            return None
        return {"n": sum(map(self._count, files)), "written": max(map(_written, files))}

    def _count(self, file: Path) -> int:
        if file not in self._known:
            try:
                self._known[file] = pq.read_metadata(file).num_rows
            except (OSError, ValueError, pa.ArrowException):
                return 0
        return self._known[file]


def _written(file: Path) -> int:
    try:
        return int(file.stat().st_mtime)
    except OSError:
        return 0
