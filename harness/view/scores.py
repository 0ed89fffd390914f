"""Scores as they are stored, of cells that have no verdicts of their own: older ones, and those that are being made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from harness.cells.store import CellStore, EvaluatorKey
from harness.records import ImageKey, ScoreRow, Verdict
from harness.report.grid import read_verdicts
from harness.report.run import Run
from harness.view.judge_column import LETTERS, NO_VERDICT, JudgeColumn


def stored_scores(run: Run, store: CellStore, index: Mapping[ImageKey, int]) -> dict[str, JudgeColumn]:
    """Return what is stored: of a finished cell what its summary's evaluators said, else each folder's latest."""
    if run.readable:
        return _of_summary(run, store, index)
    rows = {key.name: store.scores(key) for key in _latest(store.folder / "scores")}
    return {name: _column(said, index) for name, said in rows.items() if said}


def _of_summary(run: Run, store: CellStore, index: Mapping[ImageKey, int]) -> dict[str, JudgeColumn]:
    said: dict[str, dict[ImageKey, ScoreRow]] = {}
    for key, verdicts in read_verdicts(run, store).items():
        for name, verdict in verdicts.items():
            said.setdefault(name, {})[key] = ScoreRow(key.prompt_id, key.repeat, Verdict(verdict))
    return {name: _column(rows, index) for name, rows in said.items()}


def _latest(folder: Path) -> list[EvaluatorKey]:
    """Return, for each folder of scores, the evaluator whose file was written last."""
    keys = []
    for place in sorted(path for path in folder.glob("*") if path.is_dir()):
        files = sorted((path for path in place.glob("*.parquet") if path.name[0] != "."),
                       key=lambda path: path.stat().st_mtime_ns)  # fmt: skip
        fingerprint = _fingerprint(files[-1]) if files else None
        if fingerprint:
            keys.append(EvaluatorKey(place.name, fingerprint))
    return keys


def _fingerprint(file: Path) -> str | None:
    try:
        metadata = pq.read_schema(file).metadata or {}
    except (OSError, ValueError):
        return None
    return metadata.get(b"fingerprint", b"").decode("utf-8", "replace") or None


def _column(said: Mapping[ImageKey, ScoreRow], index: Mapping[ImageKey, int]) -> JudgeColumn:
    letters, scores = [NO_VERDICT] * len(index), np.full(len(index), np.nan)
    for key, row in said.items():
        if key in index:
            letters[index[key]] = LETTERS[row.verdict] if row.verdict else NO_VERDICT
            scores[index[key]] = np.nan if row.value is None else row.value
    return JudgeColumn("".join(letters), scores, np.full(len(index), -1))
