"""The last stage: rows to summaries, and summaries to the terminal, W&B and the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from harness.cells.attacked import write_before
from harness.cells.calibration import load_calibrations
from harness.cells.cell import Cell, cell_config, cell_file, plain
from harness.cells.followed import protocols_said
from harness.cells.hashes import write_hashes
from harness.cells.plan import THROUGHPUT_FILE, CellPlan, Plan, read_throughput, throughput_key
from harness.cells.provenance import joined, made_on, provenance
from harness.cells.scored import Scored
from harness.cells.settings import RunSettings
from harness.cells.tracker import Tracker
from harness.lib.atomic import write_atomic
from harness.lib.shell import PYTHON, typed
from harness.lib.streams import say
from harness.models.weights import weights_origin
from harness.records import Status
from harness.stages import Failure
from harness.summary import keep_judgements, read_scores, summarise, training_of

Unavailable = Mapping[str, Mapping[str, str]]  # reason by evaluator name, by cell id


def report(
    plan: Plan,
    compared: Mapping[str, Cell],
    unavailable: Unavailable,
    workers: Sequence[Mapping[str, Any]],
    settings: RunSettings,
    results: Path,
    command: Sequence[str],
    tracker: Tracker,
    console: Console,
) -> list[Failure]:
    """Write summaries and provenance, mirror to the tracker, print the table, rebuild the leaderboard."""
    cells = [entry.cell for entry in plan.cells]
    speeds = read_throughput(results)
    rows = _CellRows(cells, compared, unavailable)
    summaries = []
    for entry in plan.cells:
        summaries.append(_report_cell(entry, rows, workers, command, tracker, console))
        _measure_speed(entry, rows.own(entry.cell), speeds)
    rows.clear()
    write_atomic(results / THROUGHPUT_FILE, json.dumps(speeds, indent=1, sort_keys=True).encode())
    _show(summaries, settings, results, console)
    if settings.leaderboard:
        tracker.log_board(results)
    if settings.overview:
        _write_overview(settings, cells, results, console)
    return [
        Failure(summary["cell"]["name"], "incomplete", "; ".join(summary["incomplete"]))
        for summary in summaries
        if summary["status"] != "complete"
    ]


class _CellRows:
    """The rows of a cell and of its baseline at a time: a sweep has more of them than a driver's memory need hold."""

    def __init__(self, cells: Sequence[Cell], compared: Mapping[str, Cell], unavailable: Unavailable) -> None:
        self._cells = {cell.cell_id for cell in cells}
        self._compared, self._unavailable = compared, unavailable
        self._read: dict[str, Scored] = {}

    def own(self, cell: Cell) -> Scored:
        """Return a cell's rows; those of cells that it is not compared with are let go."""
        baseline = self._compared.get(cell.cell_id)
        wanted = {cell.cell_id, *([baseline.cell_id] if baseline else [])}
        for cell_id in self._read.keys() - wanted:
            del self._read[cell_id]
        if cell.cell_id not in self._read:
            self._read[cell.cell_id] = read_scores(cell, self.unavailable(cell), self._compared)
        return self._read[cell.cell_id]

    def baseline(self, cell: Cell) -> Scored | None:
        """Return the rows of the cell that it is compared with, where that is of this run."""
        baseline = self._compared.get(cell.cell_id)
        if baseline is None or baseline.cell_id not in self._cells:
            return None
        if baseline.cell_id not in self._read:
            self._read[baseline.cell_id] = read_scores(baseline, self.unavailable(baseline), self._compared)
        return self._read[baseline.cell_id]

    def unavailable(self, cell: Cell) -> Mapping[str, str]:
        """Return the evaluators that a cell cannot have, each with the reason."""
        return self._unavailable.get(cell.cell_id, {})

    def clear(self) -> None:
        self._read.clear()


def _report_cell(
    entry: CellPlan,
    rows: _CellRows,
    workers: Sequence[Mapping[str, Any]],
    command: Sequence[str],
    tracker: Tracker,
    console: Console,
) -> dict[str, Any]:
    cell = entry.cell
    scored = rows.own(cell)
    summary = summarise(scored, rows.baseline(cell), rows.unavailable(cell), training_of(cell, scored.images.values()))
    _say_mixed(cell, summary, console)
    if _write(entry, scored, summary, workers, command, console):
        keep_judgements(scored, summary)
        write_hashes(cell.folder)
        tracker.log_cell(summary, cell_config(cell), list(scored.images.values()), scored.scores, cell.folder)
    return summary


def _say_mixed(cell: Cell, summary: Mapping[str, Any], console: Console) -> None:
    if summary["images"].get("mixed"):
        say(console, f"warning: {cell.label}: {summary['images']['mixed']}")


def _write(
    entry: CellPlan,
    scored: Scored,
    summary: Mapping[str, Any],
    workers: Sequence[Mapping[str, Any]],
    command: Sequence[str],
    console: Console,
) -> bool:
    """Write a cell's files, unless they are from a complete run with more images; return whether it did."""
    cell = entry.cell
    store = cell.store
    before = store.read_summary() or {}
    n_before, n_now = (_n_expected(one) for one in (before, summary))
    if n_before > n_now and before.get("status") == "complete":
        say(console, f"{cell.label}: summary.json and the leaderboard keep the longer run of {n_before} images; "
                     f"this one had {n_now}")
        return False
    store.write_cell(cell_file(cell))
    if cell.before:
        write_before(cell.folder, cell.before)
    _write_provenance(entry, scored, workers, command, protocols_said(summary))
    store.write_summary(plain(summary))
    return True


def _n_expected(summary: Mapping[str, Any]) -> int:
    images = summary.get("images")
    count = images.get("n_expected") if isinstance(images, Mapping) else None
    return count if isinstance(count, int) else 0


def _write_provenance(
    entry: CellPlan, scored: Scored, workers: Sequence[Mapping[str, Any]], command: Sequence[str],
    protocols: Mapping[str, Any],
) -> None:  # fmt: skip
    """Record what generated the images, and the protocols that they follow; a run that generated none adds these only.
    """
    cell, store = entry.cell, entry.cell.store
    before = store.read_provenance()
    if before and not entry.missing:
        if protocols and before.get("protocols") != protocols:
            store.write_provenance({**before, "protocols": protocols})
        return
    hashed = cell.prompts.hash if cell.prompts else None
    weights, model = str(cell.identity["model"]["weights"]), weights_origin(cell.spec.model)
    made = joined(provenance(command, workers, weights, hashed, model), before)
    said = {"protocols": protocols} if protocols else {}
    store.write_provenance({**made, "made_on": made_on(scored.images.values()), **said})


def _measure_speed(entry: CellPlan, scored: Scored, speeds: dict[str, float]) -> None:
    """Store this run's seconds per image for the next plan's estimate."""
    made = {item.key for item in entry.missing or ()}
    seconds = [row.seconds for row in scored.images.values() if row.key in made and row.status is Status.OK]
    if seconds:
        speeds[throughput_key(entry.cell, entry.cell.method)] = median(seconds)


def _show(summaries: list[dict[str, Any]], settings: RunSettings, results: Path, console: Console) -> None:
    from harness.report.terminal import print_results

    print_results(summaries, console, load_calibrations(results), results)
    if any(summary.get("protocols") for summary in summaries):
        from harness.report.protocols import print_protocols

        print_protocols(summaries, console)
    say(console, f"images, rows and scores: {results / 'runs'}")
    if settings.leaderboard:
        from harness.report.leaderboard import write_leaderboard

        for path in write_leaderboard(results).files:
            if path.suffix == ".html":
                say(console, f"leaderboard: {path}")
        for line in next_lines(settings.results):
            say(console, line)


def next_lines(results: str) -> list[str]:
    """Return what to do after a run, as commands for the shell that started it."""
    program = (PYTHON, "-m", "harness")
    return ["next:",
            f"  {typed([*program, 'view', results])}    the images and verdicts behind each number, in a browser",
            f"  {typed([*program, '--help'])}    every method, model and benchmark, and how to sweep them"]


def _write_overview(settings: RunSettings, cells: Sequence[Cell], results: Path, console: Console) -> None:
    """Write the table of this command's cells only; the folder may hold others."""
    from harness.report.overview import overview
    from harness.report.runs import load_runs

    path = results / "overview.md"
    asked = {cell.cell_id for cell in cells}
    runs = [run for run in load_runs(results) if run.cell_id in asked]
    order = list(dict.fromkeys(cell.method for cell in cells))
    write_atomic(path, overview(runs, settings.overview or (), order).encode())
    say(console, f"overview: {path}")
