"""What is found under which address: the same answers for the local server and for a bundle of files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.report import export
from harness.report.run import Run
from harness.report.table import build_rows
from harness.report.variants import row_labels, variants
from harness.view.board import board
from harness.view.cell import cell_record
from harness.view.columns import Columns
from harness.view.details import details
from harness.view.library import Library, stamp
from harness.view.lookups import PATIENCE, Lookups
from harness.view.pairs import pairs
from harness.view.pictures import SIZES, picture
from harness.view.progress import Progress
from harness.view.ranking import Ranking, Ranks
from harness.view.same import same_images

ALL_PAIRS = 12  # cells of a bench up to which a bundle compares each with each; beyond, with their baselines only
KEPT_CHUNKS = 200  # of 150 kB: what a reader who goes back and forth asks for again
KEPT_PAIRS = 64  # comparisons that are held: seconds of work each, some 20 kB
JSON, WEBP, CSV = "application/json", "image/webp", "text/csv; charset=utf-8"
_CELL = r"(?P<cell>[A-Za-z0-9_-]{1,100})"
_N = r"(?P<n>0|[1-9][0-9]{0,8})"


@dataclass(frozen=True)
class Answer:
    """What an address holds."""

    content: bytes
    kind: str


class Addresses:
    """Answers addresses below `data/`. Whatever an address says, only cells and images that were listed are read."""

    def __init__(self, library: Library, live: bool, cache: Path | None = None, patience: float | None = PATIENCE
                 ) -> None:  # fmt: skip
        self.library, self.live, self.lookups = library, live, Lookups(library, cache, patience)
        self._progress, self._board = Progress(), cast("tuple[list[Run], Ranks, Answer] | None", None)
        self._pairs: dict[tuple[Any, ...], Answer] = {}
        self.ranking = Ranking()
        self._chunks: dict[tuple[str, str, int], Answer] = {}
        self._routes: list[tuple[re.Pattern[str], Callable[..., Answer | None]]] = [
            (re.compile(pattern), answer) for pattern, answer in (
                (r"board\.json", self.board),
                (r"leaderboard\.(?P<form>csv|json)", self.leaderboard),
                (rf"cells/{_CELL}\.json", self.cell),
                (rf"cells/{_CELL}/images\.json", self.about),
                (rf"cells/{_CELL}/(?P<part>columns|details|same)/{_N}\.json", self.images),
                (rf"cells/{_CELL}/(?P<size>{'|'.join(SIZES)})/{_N}\.webp", self.picture),
                (rf"compare/{_CELL}/(?P<base>[A-Za-z0-9_-]{{1,100}})\.json", self.compare),
            )
        ]  # fmt: skip

    def answer(self, address: str) -> Answer | None:
        """Return what is at an address below `data/`; None if nothing is."""
        for pattern, answer in self._routes:
            if match := pattern.fullmatch(address):
                return answer(**match.groupdict())
        return None

    def board(self) -> Answer:
        """Return the board; the last one again while nothing of it has changed. Ranks come once they are read."""
        runs, known = self.library.rows(), self._board
        ranks = self.ranking.known(runs) if self.live else self.ranking.waited_for(runs)
        if known is not None and known[0] is runs and known[1] is ranks and not any_unfinished(runs):
            return known[2]
        made = as_json(board(runs, ranks, self.library.results.name, self.live, self._progress))
        self._board = runs, ranks, made
        return made

    def leaderboard(self, form: str) -> Answer | None:
        runs = self.library.rows()
        if not runs:
            return None
        readable = [run for run in runs if run.readable]
        rows = build_rows(runs, row_labels(readable, variants(readable)), None, self.ranking.waited_for(runs))
        text, kind = (export.csv_text(rows), CSV) if form == "csv" else (export.json_text(rows), JSON)
        return Answer(text.encode("utf-8", "backslashreplace"), kind)

    def cell(self, cell: str) -> Answer | None:
        run = self.library.run(cell)
        if run is None:
            return None
        beside = self.library.beside(run)
        record = cell_record(self.library.tested(run), beside, self.compared_with(run))
        return as_json(record | {"trainings": self.library.trainings(run)})

    def about(self, cell: str) -> Answer | None:
        columns = self.library.columns(cell)
        return as_json(columns.about()) if columns else None

    def images(self, cell: str, part: str, n: str) -> Answer | None:
        run, columns = self._known(cell)
        if run is None or columns is None:
            return None
        if part == "columns":
            return self._chunk(cell, columns, int(n))
        if part == "details":
            content = details(columns, int(n))
        else:
            beside = {one.cell_id: one for one in self.library.beside(run)}
            known = self.lookups.of([*beside.values()])
            content = same_images(run, columns, int(n), {cell: (beside[cell], one) for cell, one in known.items()})
        return as_json(content) if content else None

    def _chunk(self, cell: str, columns: Columns, n: int) -> Answer | None:
        key = (cell, columns.version, n)
        if key not in self._chunks:
            content = columns.chunk(n)
            if content is None:
                return None
            self._chunks[key] = as_json(content)
            for old in list(self._chunks)[:-KEPT_CHUNKS]:
                self._chunks.pop(old, None)
        return self._chunks[key]

    def picture(self, cell: str, size: str, n: str) -> Answer | None:
        run, columns = self._known(cell)
        row = columns.rows[int(n)] if columns and int(n) < len(columns.rows) else None
        if row is None or row.file is None or run is None or run.folder is None:
            return None
        content = picture(run.folder, row.file, size)
        return Answer(content, WEBP) if content else None

    def compare(self, cell: str, base: str) -> Answer | None:
        run, columns = self._known(cell)
        other, others = self._known(base)
        if not (run and other and columns and others) or run.bench != other.bench:
            return None
        files = [stamp(one.folder) for one in (run, other) if one.folder]
        key = (cell, base, columns.version, others.version, *files)
        if key not in self._pairs:
            if len(self._pairs) >= KEPT_PAIRS:
                self._pairs.clear()
            self._pairs[key] = as_json(pairs(run, columns, other, others))
        return self._pairs[key]

    def compared_with(self, run: Run) -> list[str]:
        """Return the cells that a cell is compared with: any of its bench, or as many as a bundle holds."""
        beside = [one.cell_id for one in self.library.beside(run) if one.readable and run.readable]
        if self.live or len(beside) < ALL_PAIRS:
            return beside
        bases = {one.cell_id for one in run.against.values()}
        return [cell for cell in beside if cell in bases]

    def close(self) -> None:
        """Stop what is read in the background."""
        self.lookups.close()
        self.ranking.close()

    def _known(self, cell: str) -> tuple[Run | None, Columns | None]:
        return self.library.run(cell), self.library.columns(cell)


def any_unfinished(runs: Sequence[Run]) -> bool:
    """Return whether some cell has no summary yet: how far it is changes without a sign."""
    return any(run.status == "unfinished" for run in runs)


def as_json(content: Any) -> Answer:
    """Return content as compact JSON; NaN is refused: an unknown number is null."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Answer(text.encode("utf-8", "replace"), JSON)
