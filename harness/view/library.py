"""A results folder as the pages see it: runs and images, read when they are asked for and again when they change."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.cells.store import CellStore
from harness.errors import MissingResourceError
from harness.report.run import Run
from harness.report.runs import adjusted, load_run
from harness.report.trainings import pooled
from harness.view.columns import Columns, read_columns

SIDE_FILES = ("summary.json", "cell.yaml", "provenance.json", "verdicts.parquet")
LISTING = 0.5  # seconds that a list of folders counts: a page asks for many images at once
KEPT_IMAGES = 400_000  # whose rows stay in memory
Stamp = tuple[tuple[int, int], ...]


class Library:
    """Runs and images of `results`. What was read is kept while the files are as they were. Threads may share it.

    `leave_out` says which images of a cell have no pixels in this copy of the results.
    """

    def __init__(self, results: Path, leave_out: Callable[[Run, Columns], frozenset[int]] | None = None) -> None:
        self.results, self._leave_out = results.resolve(), leave_out
        self._lock = threading.RLock()
        self._runs: dict[Path, tuple[Stamp, Run]] = {}
        self._listed: tuple[float, dict[str, Path]] | None = None
        self._rows: tuple[list[Run], list[Run]] | None = None
        self._columns: OrderedDict[str, tuple[Stamp, Columns]] = OrderedDict()
        self._reading: dict[str, threading.Lock] = {}

    def folders(self) -> dict[str, Path]:
        """Return the folder of every cell by its id, which is the only way to one: no path is made of an address."""
        now = time.monotonic()
        if self._listed is None or now - self._listed[0] > LISTING:
            found = {path.name: path for path in sorted(self.results.glob("runs/*/*/*/*"))
                     if path.is_dir() and not path.name.startswith(".")}  # fmt: skip
            self._listed = now, found
        return self._listed[1]

    def check(self) -> None:
        """Raise MissingResourceError where there is nothing to show."""
        if not self.results.is_dir():
            raise MissingResourceError(f"results folder '{self.results}' does not exist.",
                                       "Run `python -m harness` first.")

    def every(self) -> list[Run]:
        """Return every run by itself, one a folder."""
        with self._lock:
            stamps = {folder: stamp(folder) for folder in self.folders().values()}
            self._runs = {folder: self._known(folder, now) for folder, now in stamps.items()}
            return [run for _, run in self._runs.values()]

    def rows(self) -> list[Run]:
        """Return the runs as the leaderboard has them: trainings of one recipe joined, p values adjusted."""
        runs = self.every()
        with self._lock:
            if self._rows is None or not _identical(self._rows[0], runs):
                self._rows = runs, adjusted(pooled(runs)) if runs else []
            return self._rows[1]

    def tested(self, run: Run) -> Run:
        """Return a run with its p values adjusted for the rows beside it, where it is a row by itself."""
        return next((one for one in self.rows() if one.cell_id == run.cell_id and not one.trainings), run)

    def trainings(self, run: Run) -> list[str]:
        """Return the cells that share a row with a cell: trainings of one recipe. Empty for one training."""
        rows = (row.trainings for row in self.rows())
        return next(([one.cell_id for one in row] for row in rows if run.cell_id in (one.cell_id for one in row)), [])

    def run(self, cell_id: str) -> Run | None:
        """Return the run of a cell, None if there is none."""
        folder = self.folders().get(cell_id)
        if folder is None:
            return None
        with self._lock:
            self._runs[folder] = self._known(folder, stamp(folder))
            return self._runs[folder][1]

    def _known(self, folder: Path, now: Stamp) -> tuple[Stamp, Run]:
        known = self._runs.get(folder)
        return known if known is not None and known[0] == now else (now, load_run(folder))

    def columns(self, cell_id: str) -> Columns | None:
        """Return the images of a cell, None if there is no such cell."""
        run = self.run(cell_id)
        if run is None or run.folder is None:
            return None
        with self._lock:
            reading = self._reading.setdefault(cell_id, threading.Lock())
        with reading:  # others may read other cells meanwhile
            return self._read(run, run.folder)

    def _read(self, run: Run, folder: Path) -> Columns:
        now = (*stamp(folder), *row_stamp(folder))
        with self._lock:
            known = self._columns.get(run.cell_id)
            if known is not None and known[0] == now:
                self._columns.move_to_end(run.cell_id)
                return known[1]
        made = read_columns(run, CellStore(folder, run.cell_id))
        if self._leave_out is not None:
            made = replace(made, left_out=self._leave_out(run, made))
        with self._lock:
            self._columns[run.cell_id] = (now, made)
            self._columns.move_to_end(run.cell_id)
            self._forget()
        return made

    def _forget(self) -> None:
        """Let those go that were asked for longest ago; the last one stays, however large."""
        while len(self._columns) > 1 and sum(len(one.rows) for _, one in self._columns.values()) > KEPT_IMAGES:
            self._columns.popitem(last=False)

    def beside(self, run: Run) -> list[Run]:
        """Return the other cells of a run's model and bench."""
        return [one for one in self.every()
                if (one.model, one.bench) == (run.model, run.bench) and one.cell_id != run.cell_id]


def _identical(some: Sequence[Run], others: Sequence[Run]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def stamp(folder: Path) -> Stamp:
    """Return when the files beside a cell's images were written, and their sizes."""
    return tuple(_written(folder / name) for name in SIDE_FILES)


def row_stamp(folder: Path) -> Stamp:
    """Return when rows and scores were written: files are added to these folders, never changed in place."""
    scores = folder / "scores"
    places: Iterable[Path] = (folder / "rows", scores, *(sorted(scores.glob("*")) if scores.is_dir() else ()))
    return tuple(_written(place) for place in places)


def _written(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
    except OSError:
        return 0, 0
    return about.st_mtime_ns, about.st_size
