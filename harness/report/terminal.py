"""The table at the end of a run: colours on a terminal, plain lines elsewhere. Same numbers as the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cells.calibration import Calibrations
from harness.errors import HarnessError, printable
from harness.lib.streams import say
from harness.report.against import Adjusted
from harness.report.judges import beside
from harness.report.run import Run
from harness.report.runs import BrokenSummaryError, adjusted, load_runs, run_from_summary
from harness.report.table import NOT_MEASURED, Column, Row, build_rows, row_cell, shown_columns
from harness.report.trainings import pooled
from harness.report.variants import row_labels, variants

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS = {
    "method": "method", "differs": "differs in", "unsafe_rate": "unsafe rate", "sensitivity": "sensitivity",
    "specificity": "specificity", "attack_success_rate": "attack success",
    "pre_attack_success_rate": "before the attack", "post_attack_success_rate": "after the attack",
    "difference": "against", "clip_score": "CLIP score", "fid": "FID", "images": "images",
    "seconds_per_image": "s/image", "status": "status",
}  # fmt: skip
STYLES = {"better": "green", "worse": "red", "missing": "yellow", "incomplete": "yellow", "broken": "red",
          "differs": "yellow"}  # fmt: skip


def print_results(
    summaries: Sequence[Mapping[str, Any]],
    console: Console,
    calibrations: Calibrations | None = None,
    results: Path | None = None,
) -> None:
    """Print one table per model and bench. An unreadable summary is reported, not skipped.

    p values are adjusted over these runs and the others in the folder `results`.
    """
    readable, broken = _read(summaries, results)
    read = pooled(readable)
    runs = adjusted([*read, *_others(read, results)])[: len(read)]
    judged = {run.cell_id: beside(run, calibrations or Calibrations(), corrected=False) for run in runs}
    rows = build_rows(runs, row_labels(runs, variants(runs)), judged)
    places = list(dict.fromkeys((row.run.model, row.run.bench) for row in rows))
    for model, bench in places:
        _print_place(f"{model} on {bench}", [r for r in rows if (r.run.model, r.run.bench) == (model, bench)], console)
    for line in broken:
        say(console, line)


def _others(runs: Sequence[Run], results: Path | None) -> list[Run]:
    shown = {one.cell_id for run in runs for one in (run, *run.trainings)}
    try:
        return [run for run in load_runs(results) if run.cell_id not in shown] if results else []
    except HarnessError:  # no folder of runs yet
        return []


def _read(summaries: Sequence[Mapping[str, Any]], results: Path | None) -> tuple[list[Run], list[str]]:
    runs, broken = [], []
    for summary in summaries:
        try:
            run = run_from_summary(summary)
            place = results / "runs" / run.model / run.method / run.bench / run.cell_id if results else None
            runs.append(replace(run, folder=place))
        except BrokenSummaryError as error:
            name = (summary.get("cell") or {}).get("name", "?") if isinstance(summary, Mapping) else "?"
            broken.append(f"{name}: unreadable summary: {error}")
    return runs, broken


def _print_place(title: str, rows: Sequence[Row], console: Console) -> None:
    columns = [column for column in shown_columns(rows) if column.kind in HEADINGS]
    columns = [column for column in columns if any(row_cell(row, column) is not NOT_MEASURED for row in rows)]
    if all(row.run.status_text == "complete" for row in rows):
        columns = [column for column in columns if column.key != "status"]
    if console.is_terminal:
        console.print(_table(title, rows, columns))
    else:
        for line in _plain(title, rows, columns):
            say(console, line)
    for line in _families(rows):
        say(console, line)


def _heading(column: Column) -> str:
    _, _, label = column.key.partition(":")
    of = f" ({column.of})" if column.of else f" {label}" if label else ""
    return f"{HEADINGS[column.kind]}{of}"


def _families(rows: Sequence[Row]) -> list[str]:
    """Return how many comparisons the p values of each column are adjusted for."""
    sizes = {(label, row.run.safety): comparison.n_family for row in rows for label, against in row.run.against.items()
             if isinstance(comparison := against.comparisons.get(str(row.run.safety)), Adjusted)}  # fmt: skip
    return [f"adjusted p against {label}: Holm's method over all {n} comparisons of {metric} in the results folder"
            for (label, metric), n in sizes.items() if n > 1]  # fmt: skip


def _texts(row: Row, columns: Sequence[Column]) -> list[str]:
    cells = [(row_cell(row, column), column) for column in columns]
    texts = [" ".join(filter(None, (cell.text, *map(_one_line, column.lines(cell))))) for cell, column in cells]
    return [printable(text) for text in texts]


def _one_line(detail: str) -> str:
    return printable(detail.replace("\n", " "))


def _plain(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    lines = [[_heading(column) for column in columns], *(_texts(row, columns) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return ["", printable(title), *padded]


def _table(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        left = column.key in ("method", "differs", "status")
        table.add_column(_heading(column), justify="left" if left else "right")
    for row in rows:
        cells = [(row_cell(row, column), column) for column in columns]
        table.add_row(*(
            Text.assemble((printable(c.text), STYLES.get(c.tone, "")),
                          *((f" {_one_line(line)}", "dim") for line in column.lines(c)))
            for c, column in cells
        ))  # fmt: skip
    return table
