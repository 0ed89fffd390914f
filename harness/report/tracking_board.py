"""The leaderboard as W&B sees it: a table of its rows, and the cells that they came of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.lib.hashing import canonical_hash
from harness.report.export import record
from harness.report.ranks import ranked
from harness.report.run import Run
from harness.report.runs import load_runs
from harness.report.table import build_rows
from harness.report.variants import row_labels, variants


def board_table(results: Path) -> tuple[Any, str]:
    """Return the rows of a leaderboard as a W&B table, with the columns of its CSV file, and a hash of them."""
    import wandb

    runs = [run for run in load_runs(results) if run.readable]
    records = [record(row) for row in build_rows(runs, row_labels(runs, variants(runs)), {}, ranked(runs))]
    columns = list(dict.fromkeys(key for one in records for key in one))
    rows = [[one.get(key) for key in columns] for one in records]
    return wandb.Table(columns=list(columns), data=rows, allow_mixed_types=True), canonical_hash([columns, rows])[:16]


def cells_of(results: Path) -> list[Path]:
    """Return the folders of the cells on a leaderboard, those of several trainings one by one."""
    runs: list[Run] = [one for run in load_runs(results) for one in (run.trainings or (run,))]
    return [run.folder for run in runs if run.readable and run.folder]
