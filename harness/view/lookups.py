"""Lookups of a results folder, read in the background: from memory, from the user's cache, else from the images."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from harness.errors import StorageError
from harness.lib.atomic import write_atomic
from harness.lib.reading import UnreadableFileError, read_bytes
from harness.report.run import Run
from harness.view.library import Library, Stamp, row_stamp, stamp
from harness.view.lookup import Lookup

PATIENCE = 0.8
MAX_BYTES = 2**29


def cache_folder() -> Path:
    """Return where lookups are kept: in the user's cache. They hold keys, hashes and verdicts, no prompt, no pixel."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "responsible-t2i-harness" / "view"


class Lookups:
    """The lookup of each cell, one reading at a time; `cache` is None where nothing is kept on disk.

    An answer waits `patience` seconds for what is being read; None: until it is.
    """

    def __init__(self, library: Library, cache: Path | None, patience: float | None = PATIENCE) -> None:
        self._library, self._cache, self._patience = library, cache, patience
        self._known: dict[str, tuple[Stamp, Future[Lookup | None]]] = {}
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lookups")

    def close(self) -> None:
        """Read nothing more: what was asked for is not waited for."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def of(self, runs: Sequence[Run]) -> dict[str, Lookup | None]:
        """Return the lookups of these cells; None for those that are not read yet."""
        reading = {run.cell_id: self._begun(run) for run in runs if run.folder}
        wait(reading.values(), self._patience)
        return {cell: one.result() if one.done() else None for cell, one in reading.items()}

    def _begun(self, run: Run) -> Future[Lookup | None]:
        assert run.folder is not None
        now = (*stamp(run.folder), *row_stamp(run.folder))
        with self._lock:
            known = self._known.get(run.cell_id)
            if known is None or known[0] != now:
                known = self._known[run.cell_id] = now, self._reader.submit(self._read, run, run.folder, now)
            return known[1]

    def _read(self, run: Run, folder: Path, now: Stamp) -> Lookup | None:
        of = str(now)
        file = self._cache / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:24]}.npz" if self._cache else None
        try:
            data = read_bytes(file, MAX_BYTES) if file else None
        except UnreadableFileError:
            data = None
        kept = Lookup.from_bytes(data, of) if data else None
        if kept is not None:
            return kept
        columns = self._library.columns(run.cell_id)
        if columns is None:
            return None
        made = Lookup.of(columns)
        if file is not None:
            _keep(file, made.to_bytes(of))
        return made


def _keep(file: Path, data: bytes) -> None:
    """Write a file of the cache; a cache that cannot be written is no reason to stop."""
    try:
        write_atomic(file, data)
    except (StorageError, OSError):
        return
