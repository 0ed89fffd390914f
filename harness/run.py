"""A run on one page: cells, plan, prepare, generate, score, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.bench import PROMPT_KEYS, PromptSet, load_prompts
from harness.cells.attack_cells import with_before
from harness.cells.cell import Cell
from harness.cells.fetching import fetch_asked
from harness.cells.job import Job
from harness.cells.making import as_baseline, joined, make_cell
from harness.cells.one_training import bound
from harness.cells.plan import CellPlan, Plan, make_plan, print_plan
from harness.cells.settings import RunSettings
from harness.cells.shared import Shared
from harness.cells.store import Lease, check_writable
from harness.cells.strays import clear_strays
from harness.cells.tracker import Tracker
from harness.cells.training_seeds import unvaried, with_training_seeds
from harness.errors import HarnessError, IncompatibleError
from harness.lib.hashing import canonical_hash
from harness.lib.progress import Board
from harness.lib.shell import typed
from harness.lib.streams import say, terminal
from harness.pool import Interrupted, Lost, Pool, make_pool
from harness.pool.leased import LeasedPool
from harness.pool.settings import PoolSettings
from harness.report.tracking import make_tracker
from harness.stages import Failure, Judging, extract_references, generate, prepare, score


def run(jobs: Sequence[Job], command: Sequence[str], notes: Sequence[str] = ()) -> int:
    """Run or plan the jobs. Return 0 when every cell is complete, 1 when something failed. Raises HarnessError.

    A plan returns 1 where a cell cannot run here.

    `notes` on how the jobs were asked for are shown with the plan.
    """
    console = terminal()
    settings = RunSettings.from_config(jobs[0].settings)
    results = Path(settings.results).expanduser().resolve()
    machine = PoolSettings.from_config(jobs[0].settings["pool"])
    if settings.mode == "run":
        machine.check_device()
        fetch_asked(jobs)
    cells = make_cells(jobs)
    pool = make_pool(jobs[0].settings["pool"], results)
    plan = make_plan(cells.cells, results, pool.size, verify=settings.mode == "run", on_cpu=machine.uses_cpu)
    _say_refused(cells.refused, console)
    _say_unvaried(jobs, settings, console)
    print_plan(plan, console, full=settings.mode == "plan" or len(cells.cells) > 1)
    for note in (*notes, *filter(None, [machine.device_problem])):
        say(console, f"note: {note}")
    if settings.mode == "plan":
        return 1 if plan.problems or cells.refused else 0
    plan.refuse_if_blocked()
    check_writable(results)
    tracker = make_tracker(jobs[0].settings["tracker"], f"sweep-{canonical_hash(list(command))[:8]}", results,
                           partial(say, console))
    with Lease(results) as lease, closing(tracker), LeasedPool(pool, lease) as workers:
        folders = [entry.cell.folder for entry in plan.cells]
        interrupted = [entry.cell.folder for entry in plan.cells if entry.missing]
        clear_strays(results, folders, interrupted)
        try:
            made = _carry_out(plan, cells.compared, workers, jobs[0], results, command, tracker, console)
            if workers.replaced:
                clear_strays(results, folders, interrupted)
            failures = [*cells.refused, *made]
        except (Interrupted, Lost) as error:
            print_resumable(console, "stopped" if isinstance(error, Interrupted) else str(error), command)
            return error.exit_code
    _say_failures(failures, command, console)
    return 1 if failures else 0


@dataclass(frozen=True)
class Cells:
    """Every cell once, which cell each is compared with (by cell id), and what was refused."""

    cells: tuple[Cell, ...]
    compared: Mapping[str, Cell]
    refused: tuple[Failure, ...]


def make_cells(jobs: Sequence[Job]) -> Cells:
    """Return the cells of the jobs and the baselines that they are compared with.

    A single job that cannot work raises; in a sweep it is refused with its reason and the others continue.
    """
    prompts: dict[str, PromptSet | None] = {}
    shared = Shared()
    cells: dict[str, Cell] = {}
    compared: dict[str, str] = {}
    refused: list[Failure] = []
    for job in with_training_seeds(jobs):
        try:
            cell, baseline, before = _cells_of(job, prompts, shared)
        except IncompatibleError as error:
            if len(jobs) == 1:
                raise
            name = "+".join(str(method["name"]) for method in job.methods)
            refused.append(Failure(f"{job.model['name']}/{name}/{job.bench['name']}", "refused", str(error), True))
            continue
        cells[cell.cell_id] = joined(cells.get(cell.cell_id, cell), cell)
        if baseline:
            cells[baseline.cell_id] = joined(cells.get(baseline.cell_id, baseline), baseline)
            if compared.setdefault(cell.cell_id, baseline.cell_id) != baseline.cell_id:
                raise HarnessError(f"'baseline' cannot be swept: {cell.label} is compared with one.")
        if before:
            cells[before.cell_id] = joined(cells.get(before.cell_id, before), before)
    baselines = {cell_id: cells[baseline] for cell_id, baseline in compared.items()}
    return Cells(tuple(cells.values()), baselines, tuple(refused))


_Prompts = dict[str, PromptSet | None]


def _cells_of(job: Job, prompts: _Prompts, shared: Shared) -> tuple[Cell, Cell | None, Cell | None]:
    """Return a job's cell, what it is compared with, and the cell of the prompts that its own attack."""
    settings = RunSettings.from_config(job.settings)
    loaded = _loaded(job.bench, settings, prompts)
    cell = make_cell(job, loaded, shared)
    wanted = _loaded(job.before, settings, prompts) if job.before else None
    cell, before = with_before(cell, job, wanted)
    if job.baseline is None or (cell.method == job.baseline["name"] and not job.method_overrides):
        return cell, None, before
    baseline = make_cell(job.with_methods(job.baseline), loaded, shared)
    return cell, as_baseline(baseline, cell) if baseline.cell_id != cell.cell_id else None, before


def _loaded(bench: Mapping[str, Any], settings: RunSettings, prompts: _Prompts) -> PromptSet | None:
    key = canonical_hash({name: bench.get(name) for name in PROMPT_KEYS})
    if key not in prompts:
        prompts[key] = load_prompts(bench, offline=settings.mode == "plan")
    return prompts[key]


def _carry_out(
    plan: Plan,
    compared: Mapping[str, Cell],
    pool: Pool,
    job: Job,
    results: Path,
    command: Sequence[str],
    tracker: Tracker,
    console: Console,
) -> list[Failure]:
    from harness.report.write import report  # pulls in numpy-heavy metrics, which a plan does not need

    settings = RunSettings.from_config(job.settings)
    cells = [entry.cell for entry in plan.cells]
    with Board("train", console, says_start=True) as board:
        unprepared = prepare(pool, [entry.cell for entry in plan.cells if entry.missing], board)
    ready, of_another = bound_cells([entry for entry in plan.cells if entry.cell.cell_id not in unprepared])
    skip = {entry.cell.cell_id: entry.unavailable for entry in plan.cells}
    with Board("make", console) as board:
        made = generate(pool, ready, settings.shard_size, board, tracker, Judging(compared, skip))
    failures = [*unprepared.values(), *of_another, *made]
    with Board("reference", console) as board:
        failures += extract_references(pool, cells, skip, board)
    with Board("judge", console) as board:
        failures += score(pool, cells, compared, skip, board)
    failures += report(plan, compared, skip, pool.workers(), settings, results, command, tracker, console)
    return failures


def print_resumable(console: Console, what: str, command: Sequence[str]) -> None:
    """Say that a run ended early, and how to continue."""
    words = f"{what.rstrip('.')}; finished work is kept. To resume, run the same command again:"
    for line in (words, f"  {typed(command)}"):
        say(console, line)


def bound_cells(plans: Sequence[CellPlan]) -> tuple[list[CellPlan], list[Failure]]:
    """Tell every cell the content of its artifacts; return those that may be drawn, and why others may not."""
    ready, failures = [], []
    for entry in plans:
        try:
            ready.append(replace(entry, cell=bound(entry.cell)) if entry.missing else entry)
        except IncompatibleError as error:
            failures.append(Failure(entry.cell.label, "generation", str(error), True))
    return ready, failures


def _say_unvaried(jobs: Sequence[Job], settings: RunSettings, console: Console) -> None:
    names = unvaried(jobs) if settings.training_seeds > 1 else []
    if names:
        say(console, f"note: training_seeds={settings.training_seeds} has no effect on {', '.join(names)}: they train "
                     "without a seed")


def _say_refused(refused: Sequence[Failure], console: Console) -> None:
    for failure in refused:
        say(console, f"refused: {failure.cell}: {failure.error}")


def _say_failures(failures: Sequence[Failure], command: Sequence[str], console: Console) -> None:
    if not failures:
        return
    console.print(f"{len(failures)} failed:", style="bold red")
    for failure in failures:
        say(console, f"  {failure.cell}: {failure.stage}: {failure.error}")
    console.print("To retry what is missing, run the same command:")
    say(console, f"  {typed(command)}")
