"""Row files read once: what was made of a file is kept while it is as it was, and no more of it than memory allows.

Workers, and other commands, write files of rows at any time. Every question lists the folder again; only files that
are new, or no longer as they were, are read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from harness.cells.tables import UnreadableTable
from harness.lib.reading import UnreadableFileError, read_bytes

log = logging.getLogger(__name__)

CLOCK_SKEW_NS = 60 * 10**9  # between hosts
MAX_TABLE = 2**30  # bytes of a row file
KEPT_BYTES = 2**26  # of what the stores of a command have read: 60,000 rows of images
LEADS_OUT = "it is a link out of the folder"

_T = TypeVar("_T")


class RowFile(NamedTuple):
    """A file of rows as it was found: a file that was written to, or that took another's place, is another one."""

    path: Path
    written: int  # ns; 0 if it is in the future: its clock was wrong
    size: int
    inode: int
    changed: int  # ns


class _Kept(NamedTuple):
    """What was made, of which files, and how much memory it takes."""

    of: Hashable
    value: Any
    n_bytes: int


class Memory:
    """How much is kept of row files: of the folders that were asked for last, so many bytes."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self.limit = limit
        self._bytes: dict[RowFiles, int] = {}  # the one that was asked for last comes last
        self._total = 0

    def used(self, files: RowFiles, added: int = 0) -> None:
        """Note that a folder was asked for and keeps so much more; let others forget where that is too much."""
        self._bytes[files] = self._bytes.pop(files, 0) + added
        self._total += added
        while self._total > self.limit:
            oldest = next(iter(self._bytes))
            self._total -= self._bytes.pop(oldest)
            oldest.forget()


class RowFiles:
    """The row files below one folder. `problems` names what reading had to leave out, and why."""

    def __init__(self, folder: Path, memory: Memory) -> None:
        self.folder = folder
        self.problems: dict[str, str] = {}
        self.failures = 0  # how often a file could not be read: what was made without it is incomplete
        self._memory = memory
        self._kept: dict[Hashable, _Kept] = {}
        self._inside: dict[Path, bool] = {}  # folders below: whether they are in this one
        self._holds: dict[str, bool] = {}  # the same, by the path from here

    def listed(self, place: Path, pattern: str) -> list[RowFile]:
        """Return the files of a folder, oldest first; one of a future date comes first: its clock was wrong."""
        self.look_anew()
        return sorted((_found(path) for path in place.glob(pattern) if not path.name.startswith(".")),
                      key=lambda file: (file.written, file.path.name))

    def tables(
        self, files: list[RowFile], decode: Callable[[bytes], _T], weigh: Callable[[_T], int], what: str = ""
    ) -> Iterator[_T]:
        """Yield what can be read of the files; `what` tells apart what is read of one file in several ways."""
        for file in files:
            name = str(file.path.relative_to(self.folder))
            if not self.is_inside(file.path):
                self.report(name, LEADS_OUT)
                continue
            try:
                yield self.once((file.path, what), file, partial(_read, file.path, decode), weigh)
            except (UnreadableTable, UnreadableFileError) as error:
                self.failures += 1
                self.report(name, error.reason if isinstance(error, UnreadableFileError) else str(error))

    def once(self, what: Hashable, of: Hashable, make: Callable[[], _T], weigh: Callable[[_T], int]) -> _T:
        """Return what `make` gives, recomputed where `of`, the files that it is made of, are others than before."""
        known = self._kept.get(what)
        if known is not None and known.of == of:
            self._memory.used(self)
            return known.value
        value = make()
        before = self._kept.get(what)
        self._kept[what] = kept = _Kept(of, value, weigh(value))
        self._memory.used(self, kept.n_bytes - (before.n_bytes if before else 0))
        return value

    def forget(self) -> None:
        """Keep nothing of what was read."""
        self._kept.clear()

    def look_anew(self) -> None:
        """Believe nothing that was seen of links before."""
        self._inside.clear()
        self._holds.clear()

    def is_inside(self, place: Path) -> bool:
        """Return whether a path below the folder stays there, whatever links are on its way."""
        if place == self.folder:
            return True
        if place not in self._inside:
            away = place.is_symlink() and not place.resolve().is_relative_to(self.folder.resolve())
            self._inside[place] = not away and self.is_inside(place.parent)
        return self._inside[place]

    def holds(self, file: str, is_link: bool) -> bool:
        """Return whether a file, by its path from the folder, is in it; `is_link` says whether it is a link itself."""
        parent = file.rpartition("/")[0]
        if parent not in self._holds:
            self._holds[parent] = self.is_inside(self.folder / parent)
        return self._holds[parent] and not (is_link and not self.is_inside(self.folder / file))

    def report(self, name: str, reason: str) -> None:
        """Note what was left out, and say it once."""
        if name not in self.problems:
            log.warning("%s: ignored, %s", self.folder / name, reason)
        self.problems[name] = reason


def _found(path: Path) -> RowFile:
    try:
        stat = path.stat()
    except OSError:  # gone, or a link to nowhere: reading says so
        return RowFile(path, 0, 0, 0, 0)
    written = stat.st_mtime_ns if stat.st_mtime_ns <= time.time_ns() + CLOCK_SKEW_NS else 0
    return RowFile(path, written, stat.st_size, stat.st_ino, stat.st_ctime_ns)


def _read(path: Path, decode: Callable[[bytes], _T]) -> _T:
    return decode(read_bytes(path, MAX_TABLE) or b"")
