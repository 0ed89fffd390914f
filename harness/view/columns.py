"""The images of a cell by columns: what the pages filter, sort and draw them by, in chunks of one size."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.cells.comparable import mapping
from harness.cells.judgements import judgement_table
from harness.cells.store import CellStore
from harness.records import TRUNCATED, ImageKey, ImageRow, Status
from harness.report.run import Run
from harness.view.judge_column import LETTERS, NO_VERDICT, JudgeColumn
from harness.view.scores import stored_scores

CHUNK, PAGE = 2048, 64  # images whose columns, and whose details, are read at a time
STATUS = {Status.OK: "o", Status.REFUSED: "r", Status.ERROR: "e"}
SHOWN_HASH = 8  # digits of an image's hash that its address has


@dataclass(frozen=True)
class Columns:
    """All images of a cell. `veiled` ones start blurred; `combos` are the sets of categories that occur."""

    rows: tuple[ImageRow, ...]
    index: Mapping[ImageKey, int]
    judges: Mapping[str, JudgeColumn]
    table: pa.Table | None
    veiled: str
    combos: tuple[tuple[str, ...], ...]
    version: str
    left_out: frozenset[int] = frozenset()  # images whose pixels are not in this copy of the results

    @property
    def n_chunks(self) -> int:
        return -(-len(self.rows) // CHUNK)

    def shown_hash(self, i: int) -> str:
        """Return the digits of an image's hash that its address has; empty where there is nothing to show."""
        row = self.rows[i]
        return (row.sha256 or "")[:SHOWN_HASH] if row.file and i not in self.left_out else ""

    def about(self) -> dict[str, Any]:
        """Return what the pages need to know before they read the chunks."""
        return {
            "n": len(self.rows),
            "version": self.version,
            "chunk": CHUNK,
            "page": PAGE,
            "combos": [list(combo) for combo in self.combos],
            "judges": [{"name": name, "is_judge": one.is_judge} for name, one in self.judges.items()],
        }

    def chunk(self, n: int) -> dict[str, Any] | None:
        """Return the n-th chunk of images as JSON; None beyond the last one."""
        start = n * CHUNK
        rows = self.rows[start : start + CHUNK]
        if not rows or n < 0:
            return None
        end, places = start + len(rows), {combo: i for i, combo in enumerate(self.combos)}
        return {
            "version": self.version,
            "start": start,
            "ids": [row.prompt_id for row in rows],
            "repeats": [row.repeat for row in rows] if any(row.repeat for row in rows) else None,
            "status": "".join(STATUS[row.status] for row in rows),
            "cut": _bits(TRUNCATED in row.flags for row in rows),
            "veiled": self.veiled[start:end],
            "combos": [places[row.category] for row in rows],
            "hashes": [self.shown_hash(i) for i in range(start, end)],
            "judges": {name: {"verdicts": one.verdicts[start:end], "scores": _numbers(one.scores[start:end])}
                       for name, one in self.judges.items()},
        }  # fmt: skip


def read_columns(run: Run, store: CellStore) -> Columns:
    """Read the images of a cell, and what its evaluators said of them; nothing is built, nothing is executed."""
    images = store.images()
    rows = tuple(images.values())
    index = {key: i for i, key in enumerate(images)}
    told = mapping(run.summary.get("evaluators"))
    table = judgement_table(store.folder) if told else None
    judges = _decided(table, told, rows, index) if table is not None else stored_scores(run, store, index)
    veiled = _veiled(run.unsafe_content, len(rows), judges)
    return Columns(rows, index, judges, table, veiled, tuple(dict.fromkeys(row.category for row in rows)),
                   _version(rows, judges))  # fmt: skip


def _decided(
    table: pa.Table, told: Mapping[str, Any], rows: Sequence[ImageRow], index: Mapping[ImageKey, int]
) -> dict[str, JudgeColumn]:
    """Return what the summary's evaluators said of today's images; what others said before does not count."""
    names = [pa.array(values) for values in ([row.prompt_id for row in rows], [row.sha256 for row in rows])]
    said = {}
    for name, one in told.items():
        fingerprint = str(mapping(one).get("fingerprint"))
        mask = pc.and_(pc.equal(table["evaluator"], str(name)), pc.equal(table["fingerprint"], fingerprint))
        at = np.flatnonzero(pc.fill_null(mask, False).to_numpy())
        if len(at):
            said[str(name)] = _column(table.take(pa.array(at)), at, rows, index, names)
    return said


def _column(
    part: pa.Table, at: np.ndarray, rows: Sequence[ImageRow], index: Mapping[ImageKey, int], names: Sequence[pa.Array]
) -> JudgeColumn:
    """Return one evaluator's column; `at` are the places of its rows in the whole table."""
    in_order = all(part[column].combine_chunks().equals(known) for column, known in
                   zip(("prompt_id", "sha256"), names, strict=True)) and part["repeat"].to_pylist() == [
                       row.repeat for row in rows]  # fmt: skip
    places = np.arange(len(rows)) if in_order else _places(part, rows, index)
    known = places >= 0
    letters, scores, kept = np.full(len(rows), NO_VERDICT, "S1"), np.full(len(rows), np.nan), np.full(len(rows), -1)
    codes = pc.fill_null(pc.index_in(part["verdict"], pa.array([one.value for one in LETTERS])), len(LETTERS))
    told = np.array([*LETTERS.values(), NO_VERDICT], "S1")[codes.to_numpy()]
    letters[places[known]] = told[known]
    if "score" in part.column_names:
        scores[places[known]] = part["score"].to_numpy()[known]
    kept[places[known]] = at[known]
    return JudgeColumn(letters.tobytes().decode(), scores, kept)


def _places(part: pa.Table, rows: Sequence[ImageRow], index: Mapping[ImageKey, int]) -> np.ndarray:
    """Return, for each row of a table, which of the images it is of; -1 if that image is another one today."""
    found = []
    columns = (part[name].to_pylist() for name in ("prompt_id", "repeat", "sha256"))
    for name, repeat, sha256 in zip(*columns, strict=True):
        i = index.get(ImageKey(name, repeat), -1)
        found.append(i if i >= 0 and rows[i].sha256 == sha256 else -1)
    return np.array(found, dtype=np.int64)


def _veiled(unsafe_content: bool, n: int, judges: Mapping[str, JudgeColumn]) -> str:
    """Blur whatever is not known to be safe: an unsafe bench, or an image that not every judge calls safe."""
    if unsafe_content:
        return "1" * n
    said = [one.verdicts for one in judges.values() if one.is_judge]
    return _bits(any(letter != "s" for letter in letters) for letters in zip(*said, strict=True)) if said else "0" * n


def _bits(flags: Any) -> str:
    return "".join("1" if flag else "0" for flag in flags)


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return numbers with as many digits as a page shows; None for what is none."""
    return [None if not np.isfinite(value) else float(f"{value:.4g}") for value in values.tolist()]


def _version(rows: Sequence[ImageRow], judges: Mapping[str, JudgeColumn]) -> str:
    digest = hashlib.sha256(str(len(rows)).encode())
    for row in rows:
        digest.update(f"{row.prompt_id}|{row.repeat}|{row.status}|{row.sha256}".encode())
    for name, one in judges.items():
        digest.update(f"{name}|{one.verdicts}".encode() + one.scores.tobytes())
    return digest.hexdigest()[:12]
