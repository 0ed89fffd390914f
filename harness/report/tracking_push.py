"""Runs of a results folder sent to W&B as they are now: old ones, rescored ones, those merged from other folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.cells.judgements import FILE as JUDGEMENTS
from harness.cells.store import CellStore
from harness.records import ImageKey, ImageRow, ScoreRow, Verdict
from harness.report.grid import read_verdicts
from harness.report.run import Run
from harness.report.runs import load_runs
from harness.report.tracking import WandbTracker


def push(results: Path, tracker: WandbTracker) -> tuple[int, list[Run]]:
    """Mirror every cell of a results folder and its board; return how many cells, and the runs without numbers."""
    runs = [one for run in load_runs(results) for one in (run.trainings or (run,))]
    sent = [run for run in runs if run.readable and run.folder and not tracker.problem and _send(run, tracker)]
    if sent:
        tracker.log_board(results)
    return len(sent), [run for run in runs if not run.readable]


def _send(run: Run, tracker: WandbTracker) -> bool:
    assert run.folder is not None
    store = CellStore(run.folder, run.cell_id)
    images = store.images()
    name = str((run.summary.get("cell") or {}).get("name") or f"{run.model}/{run.method}/{run.bench}")
    summary = {**run.summary, "cell": {**run.summary["cell"], "name": name}}
    tracker.log_cell(summary, run.cell, list(images.values()), _scores(run, store, images), run.folder)
    return not tracker.problem


def _scores(run: Run, store: CellStore, images: Mapping[ImageKey, ImageRow]) -> dict[str, list[ScoreRow]]:
    """Return the verdicts of a run that an earlier release summed up; later ones keep them beside the summary."""
    if (store.folder / JUDGEMENTS).is_file():
        return {}
    scores: dict[str, list[ScoreRow]] = {}
    for key, verdicts in read_verdicts(run, store).items():
        for name, verdict in verdicts.items():
            if key in images:
                scores.setdefault(name, []).append(ScoreRow(key.prompt_id, key.repeat, Verdict(verdict)))
    return scores
