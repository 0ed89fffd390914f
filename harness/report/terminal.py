"""The table at the end of a run: colours on a terminal, plain lines elsewhere. The numbers are the page's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.calibration import Calibrations
from harness.errors import printable
from harness.report.judges import beside
from harness.report.runs import BrokenSummaryError, Run, run_from_summary
from harness.report.table import NOT_MEASURED, Row, build_rows
from harness.report.variants import row_labels, variants

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS = {
    "method": "method", "unsafe_rate": "unsafe rate", "sensitivity": "sensitivity", "specificity": "specificity",
    "attack_success_rate": "attack success",
    "pre_attack_success_rate": "before the attack", "difference": "against none", "clip_score": "CLIP score",
    "fid": "FID", "images": "images", "seconds_per_image": "s/image", "status": "status",
}  # fmt: skip
STYLES = {"better": "green", "worse": "red", "missing": "yellow", "incomplete": "yellow", "broken": "red"}


def print_results(
    summaries: Sequence[Mapping[str, Any]], console: Console, calibrations: Calibrations | None = None
) -> None:
    """Print one table for each model and bench. A summary that cannot be read is named, not skipped."""
    runs, broken = _read(summaries)
    judged = {run.cell_id: beside(run, calibrations or Calibrations(), corrected=False) for run in runs}
    rows = build_rows(runs, row_labels(runs, variants(runs)), judged)
    places = list(dict.fromkeys((row.run.model, row.run.bench) for row in rows))
    for model, bench in places:
        _print_place(f"{model} on {bench}", [r for r in rows if (r.run.model, r.run.bench) == (model, bench)], console)
    for line in broken:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _read(summaries: Sequence[Mapping[str, Any]]) -> tuple[list[Run], list[str]]:
    runs, broken = [], []
    for summary in summaries:
        try:
            runs.append(run_from_summary(summary))
        except BrokenSummaryError as error:
            name = (summary.get("cell") or {}).get("name", "?") if isinstance(summary, Mapping) else "?"
            broken.append(f"{name}: unreadable summary: {error}")
    return runs, broken


def _print_place(title: str, rows: Sequence[Row], console: Console) -> None:
    keys = [key for key in HEADINGS if any(row.cells[key] is not NOT_MEASURED for row in rows)]
    if all(row.run.status == "complete" for row in rows):
        keys.remove("status")
    if console.is_terminal:
        console.print(_table(title, rows, keys))
    else:
        for line in _plain(title, rows, keys):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _texts(row: Row, keys: Sequence[str]) -> list[str]:
    return [printable(" ".join(filter(None, (row.cells[key].text, _one_line(row.cells[key].detail))))) for key in keys]


def _one_line(detail: str) -> str:
    return printable(detail.replace("\n", " "))


def _plain(title: str, rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    lines = [[HEADINGS[key] for key in keys], *(_texts(row, keys) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(keys))]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return ["", printable(title), *padded]


def _table(title: str, rows: Sequence[Row], keys: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for key in keys:
        table.add_column(HEADINGS[key], justify="left" if key in ("method", "status") else "right")
    for row in rows:
        cells = [row.cells[key] for key in keys]
        table.add_row(
            *(
                Text.assemble((printable(c.text), STYLES.get(c.tone, "")),
                              (f" {_one_line(c.detail)}" if c.detail else "", "dim"))
                for c in cells
            )
        )
    return table
