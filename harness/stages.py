"""The three stages of a run as tasks on a pool: prepare (train), generate, score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from harness.cells.cell import Cell, cell_config
from harness.cells.plan import CellPlan
from harness.cells.tracker import Tracker
from harness.evaluator import CompositeEvaluator
from harness.evaluators.identity import EvaluatorKey
from harness.lib.hashing import canonical_hash
from harness.lib.progress import Board, Meter
from harness.pool import Pool
from harness.pool.tasks import GenerateTask, PrepareTask, ReferenceTask, ScoreTask, Task, TaskFailure, TaskResult
from harness.records import ImageKey, ImageRow, ScoreItem, Status

BATCHES_PER_SHARD = 4
SCORES_PER_TASK = 256

_T = TypeVar("_T")


@dataclass(frozen=True)
class Failure:
    """A failure: in which cell, in which stage, and the last error."""

    cell: str
    stage: str
    error: str
    user_error: bool = False


@dataclass(frozen=True)
class Job:
    """A task and the cell that it belongs to."""

    cell: Cell
    task: Task
    size: int


def prepare(pool: Pool, cells: Sequence[Cell], board: Board) -> dict[str, Failure]:
    """Train what the cells' methods need, once each. Return the failures by cell id."""
    needing = [cell for cell in cells if any(method.trains for method in cell.methods)]
    groups: dict[str, list[Cell]] = {}
    for cell in needing:
        spec = cell.spec
        groups.setdefault(canonical_hash([spec.model, spec.methods, spec.seed, spec.given]), []).append(cell)
    jobs = [Job(group[0], PrepareTask(_task_id("prepare"), group[0].spec), 1) for group in groups.values()]
    failed = _run(pool, jobs, board, lambda job: f"{job.cell.spec.model['name']}/{job.cell.method}")
    by_first = {group[0].cell_id: group for group in groups.values()}
    return {
        cell.cell_id: Failure(cell.label, "training", failure.error, failure.user_error)
        for job, failure in failed
        for cell in by_first[job.cell.cell_id]
    }


def generate(
    pool: Pool, plans: Sequence[CellPlan], shard_size: int | None, board: Board, tracker: Tracker, judging: Judging
) -> list[Failure]:
    """Make every missing image and judge it meanwhile, telling the tracker how far each cell is.

    Return what could not be made at all. What was not judged is left to `score`.
    """
    jobs = [
        Job(plan.cell, GenerateTask(_task_id("generate"), plan.cell.spec, shard), len(shard))
        for plan in plans
        for shard in shards(plan, shard_size, pool.size)
    ]
    meters = {plan.cell.cell_id: Meter(plan.n_images or 0, plan.n_missing or 0) for plan in plans}
    streams = {plan.cell.cell_id: _Stream(plan.cell, judging) for plan in plans}
    configs = {plan.cell.cell_id: cell_config(plan.cell) for plan in plans}
    for job in jobs:
        streams[job.cell.cell_id].n_shards += 1

    def tell(job: Job, count: int) -> None:
        if isinstance(job.task, GenerateTask):
            meter = meters[job.cell.cell_id]
            meter.advance(count)
            tracker.log_progress(configs[job.cell.cell_id], meter.done, meter.total, meter.rate)

    def then(job: Job, outcome: TaskResult | TaskFailure) -> list[Job]:
        return streams[job.cell.cell_id].after(outcome) if isinstance(job.task, GenerateTask) else []

    failed = _run(pool, jobs, board, _label, tell, then)
    return [Failure(job.cell.label, "generation", failure.error, failure.user_error) for job, failure in failed
            if isinstance(job.task, GenerateTask)]


def _label(job: Job) -> str:
    return job.cell.label if isinstance(job.task, GenerateTask) else f"{job.cell.label}, judged"


@dataclass(frozen=True)
class Judging:
    """Whose images are compared with whose, by cell id, and the evaluators that a cell cannot have."""

    baselines: Mapping[str, Cell]
    skip: Mapping[str, Iterable[str]]


class _Stream:
    """Turns a cell's finished shards into tasks of judging, so that images are judged while others are made.

    Evaluators that compare with the baseline's images wait for `score`, when both are there.
    """

    def __init__(self, cell: Cell, judging: Judging) -> None:
        self.n_shards = 0
        self._cell = cell
        self._meta = _metas(cell)
        self._rows: list[ImageRow] = []
        self._configs = [config for config in measuring(cell, judging.skip.get(cell.cell_id, ()))
                         if not cell.evaluator(config).needs_baseline]

    def after(self, outcome: TaskResult | TaskFailure) -> list[Job]:
        """Return the jobs for the images made since the last call, once they are enough or the last ones."""
        self.n_shards -= 1
        if isinstance(outcome, TaskResult):
            self._rows += [row for row in outcome.images if row.status is Status.OK]
        if not self._rows or (self.n_shards and len(self._rows) < SCORES_PER_TASK):
            return []
        items = [_to_judge(self._cell, row, self._meta) for row in self._rows]
        self._rows = []
        parts = list(chunks(items, SCORES_PER_TASK))
        return [_score_job(self._cell, config, part) for config in self._configs for part in parts]


def shards(plan: CellPlan, shard_size: int | None, workers: int) -> Iterator[tuple[Any, ...]]:
    """Cut a cell's missing images into shards of whole batches, small enough that every worker gets some."""
    missing, batch = plan.missing or (), plan.cell.spec.settings.batch_size
    per_worker = math.ceil(len(missing) / max(workers, 1) / 2 / batch) * batch
    wanted = shard_size or max(batch, min(BATCHES_PER_SHARD * batch, per_worker))
    yield from chunks(missing, math.ceil(wanted / batch) * batch)


def score(
    pool: Pool, cells: Sequence[Cell], baselines: Mapping[str, Cell], skip: Mapping[str, Iterable[str]], board: Board
) -> list[Failure]:
    """Judge every image that has no current score. `skip` names the evaluators that a cell cannot have."""
    jobs = [job for cell in cells
            for job in _score_jobs(cell, skip.get(cell.cell_id, ()), baselines.get(cell.cell_id))]
    failed = _run(pool, jobs, board, lambda job: job.cell.label)
    return [Failure(job.cell.label, "scoring", failure.error, failure.user_error) for job, failure in failed]


def extract_references(
    pool: Pool, cells: Sequence[Cell], skip: Mapping[str, Iterable[str]], board: Board
) -> list[Failure]:
    """Extract the features of each reference set that a cell is compared with, once, unless it is not here."""
    jobs: dict[Path, Job] = {}
    whole: set[Path] = set()
    for cell in cells:
        for config in (config for config in cell.evaluators if config["name"] not in skip.get(cell.cell_id, ())):
            reference = cell.reference_set(config)
            if reference is None or reference.file in jobs or reference.file in whole:
                continue
            if reference.features() is not None:
                whole.add(reference.file)
            elif not reference.problem():
                task = ReferenceTask(_task_id("reference"), config, reference.config, str(reference.file))
                jobs[reference.file] = Job(cell, task, 1)
    failed = _run(pool, list(jobs.values()), board, lambda job: job.cell.bench.name)
    return [Failure(job.cell.label, "reference set", failure.error, failure.user_error) for job, failure in failed]


def measuring(cell: Cell, skip: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the configs of the evaluators that look at images: one of those that share their scores, no composites."""
    chosen: dict[tuple[str, EvaluatorKey], Mapping[str, Any]] = {}
    for config in cell.evaluators:
        if config["name"] in skip:
            continue
        evaluator = cell.evaluator(config)
        if not isinstance(evaluator, CompositeEvaluator):
            chosen.setdefault((evaluator.kind, cell.key_of(config)), config)
    return list(chosen.values())


def _score_jobs(cell: Cell, skip: Iterable[str], baseline: Cell | None) -> Iterator[Job]:
    """Yield the tasks of judging what has no current score."""
    made, meta = _finished(cell), _metas(cell)
    for config in measuring(cell, skip):
        others = _finished(baseline) if baseline and cell.evaluator(config).needs_baseline else {}
        judged = _judged(cell, config, made, others)
        items = [_to_judge(cell, row, meta, _file(baseline, others.get(key))) for key, row in made.items()
                 if key not in judged and (key in others or not cell.evaluator(config).needs_baseline)]  # fmt: skip
        for part in chunks(items, SCORES_PER_TASK):
            yield _score_job(cell, config, part)


def _finished(cell: Cell) -> dict[ImageKey, ImageRow]:
    return {key: row for key, row in cell.images().items() if row.status is Status.OK}


def _judged(
    cell: Cell, config: Mapping[str, Any], made: Mapping[ImageKey, ImageRow], others: Mapping[ImageKey, ImageRow]
) -> set[ImageKey]:
    """Return those images of `made` that have current scores or features; `others` are compared with."""
    evaluator, key = cell.evaluator(config), cell.key_of(config)
    if evaluator.kind == "features":
        return {image for block in cell.store.features(key, made) for image in block.keys}
    hashes = {image: str(row.sha256) for image, row in others.items()} if evaluator.needs_baseline else None
    return {image for image, row in cell.store.scores(key, hashes, made).items() if row.error is None}


def _score_job(cell: Cell, config: Mapping[str, Any], items: tuple[ScoreItem[str], ...]) -> Job:
    return Job(cell, ScoreTask(_task_id("score"), cell.spec, config, items), len(items))


def _to_judge(
    cell: Cell, row: ImageRow, meta: Mapping[str, Mapping[str, Any]], baseline: str | None = None
) -> ScoreItem[str]:
    return ScoreItem.of(row, meta.get(row.prompt_id, {}), str(_file(cell, row)), baseline)


def _file(cell: Cell | None, row: ImageRow | None) -> str | None:
    return str(cell.folder / str(row.file)) if cell and row else None


def _metas(cell: Cell) -> dict[str, Mapping[str, Any]]:
    return {row.prompt_id: row.meta for row in cell.rows}


def chunks(items: Sequence[_T], length: int) -> Iterator[tuple[_T, ...]]:
    """Yield consecutive pieces of at most `length` items."""
    for start in range(0, len(items), length):
        yield tuple(items[start : start + length])


def _task_id(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:12]}"


def _run(
    pool: Pool,
    jobs: Sequence[Job],
    board: Board,
    label: Callable[[Job], str],
    tell: Callable[[Job, int], None] = lambda job, count: None,
    then: Callable[[Job, TaskResult | TaskFailure], list[Job]] = lambda job, outcome: [],
) -> list[tuple[Job, TaskFailure]]:
    """Run the jobs, and those that `then` makes of their outcomes; show and `tell` progress. Return the failed."""
    if not jobs:
        return []
    by_id: dict[str, Job] = {}
    shown: dict[str, int] = {}

    def add(more: Sequence[Job]) -> list[Task]:
        totals: dict[str, int] = {}
        for job in more:
            by_id[job.task.task_id], shown[job.task.task_id] = job, 0
            totals[label(job)] = totals.get(label(job), 0) + job.size
        for name, total in totals.items():
            board.add(name, total)
        return [job.task for job in more]

    def on_progress(task_id: str, count: int) -> None:
        job = by_id[task_id]
        count = min(count, job.size - shown[task_id])
        shown[task_id] += count
        board.advance(label(job), count)
        tell(job, count)

    failed = []
    follow = lambda outcome: add(then(by_id[outcome.task_id], outcome))  # noqa: E731
    for outcome in pool.run(add(jobs), on_progress, follow):
        job = by_id[outcome.task_id]
        on_progress(outcome.task_id, job.size - shown[outcome.task_id])
        if isinstance(outcome, TaskFailure):
            failed.append((job, outcome))
    return failed
