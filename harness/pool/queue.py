"""Which task a worker gets next, and what happens to a task whose worker died. Plain bookkeeping: no processes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.cells.store import CellStore, attempt_id
from harness.errors import StorageError
from harness.lib.atomic import is_passing
from harness.pool.tasks import (
    GenerateTask,
    PrepareTask,
    ReferenceTask,
    ScoreTask,
    Task,
    TaskFailure,
    TaskResult,
    fingerprint,
)
from harness.records import ImageItem, ImageRow, Origin, ScoreRow, Status
from harness.sampling.batches import Outcome
from harness.training.loop_memory import CHECKPOINT

log = logging.getLogger(__name__)

Holds = tuple[str, str]
Learned = frozenset[tuple[str, int]]


def is_judging(task: Task) -> bool:
    """Return whether a task only looks at images: what a judge may do."""
    return isinstance(task, ScoreTask | ReferenceTask)


@dataclass(eq=False)
class Job:
    """A task, or a piece of one, on its way. `root` is the task as it was handed in."""

    task: Task
    root: str
    deaths: int = 0  # since it last got on
    failed_writes: int = 0
    workers: set[str] = field(default_factory=set)  # those that died on it, or could not write its images
    learned: Learned = frozenset()  # what training had kept when it was handed out, or last died

    @property
    def holds(self) -> Holds | None:
        return None if not isinstance(self.task, GenerateTask) else self.task.cell.holds

    @property
    def is_piece(self) -> bool:
        return self.task.task_id != self.root


class TaskQueue:
    """Hands out jobs and joins the pieces of a split task to one outcome."""

    def __init__(self, tasks: Iterable[Task], attempts: int) -> None:
        self._attempts = attempts
        self._waiting: deque[Job] = deque(Job(task, task.task_id) for task in tasks)
        self._open: dict[str, int] = {}  # root -> pieces not finished yet, for split tasks only
        self._parts: dict[str, list[TaskResult]] = {}
        self._deadly: set[str] = set()  # evaluators, by fingerprint, that were at work when a worker died

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def n_judging(self) -> int:
        """Return how many waiting jobs a judge may do."""
        return sum(is_judging(job.task) for job in self._waiting)

    def add(self, tasks: Iterable[Task]) -> None:
        """Queue more tasks behind the others."""
        self._waiting.extend(Job(task, task.task_id) for task in tasks)

    def take(
        self, worker: str, holding: Holds | None, others: Mapping[str, Holds | None], judging_only: bool = False
    ) -> Job | None:
        """Return the next job for a worker: for what it holds, else for what no worker holds, else any.

        `others` are the other workers and what they hold. A job that killed this worker waits for one of them, as
        long as there is one that it did not kill. Images are made before any is judged; a judge only judges.
        """
        held_by_others = set(others.values())
        fit = [job for job in self._waiting if worker not in job.workers or others.keys() <= job.workers]
        making = [] if judging_only else [job for job in fit if not is_judging(job.task)]
        fit = making or [job for job in fit if is_judging(job.task)]
        if not fit:
            return None
        same = (job for job in fit if holding is not None and job.holds == holding)
        fresh = (job for job in fit if job.holds is None or job.holds not in held_by_others)
        job = next(same, None) or next(fresh, None) or fit[0]
        self._waiting.remove(job)
        if isinstance(job.task, ScoreTask) and fingerprint(job.task.evaluator) in self._deadly:
            job.task = replace(job.task, apart=True)
        if isinstance(job.task, PrepareTask) and not job.deaths:
            job.learned = learned(job.task)
        return job

    def finished(self, job: Job, result: TaskResult) -> TaskResult | None:
        """Return the outcome of the task, or None while other pieces of it are open.

        Images that were not written are made once more, elsewhere where there is another worker.
        """
        if result.unwritten:
            return self._write_again(job, result)
        if job.root not in self._open:
            return result
        self._parts[job.root].append(result)
        self._open[job.root] -= 1
        if self._open[job.root]:
            return None
        del self._open[job.root]
        return joined(job.root, self._parts.pop(job.root))

    def _write_again(self, job: Job, result: TaskResult) -> TaskResult | None:
        piece = rest_of(job.task, result)
        self._open.setdefault(job.root, 1)
        self._parts.setdefault(job.root, []).append(replace(result, unwritten=()))
        if job.failed_writes + 1 >= self._attempts:
            return self.finished(job, give_up(piece, result.write_error))
        self._waiting.append(Job(piece, job.root, failed_writes=job.failed_writes + 1, workers={result.worker}))
        return None

    def failed(self, job: Job, worker: str, failure: TaskFailure) -> TaskFailure | TaskResult | None:
        """Return the outcome of a task that raised; a piece that raised has error rows for its images.

        Where the fault may pass, the task is tried again instead.
        """
        if failure.may_pass and job.failed_writes + 1 < self._attempts:
            job.failed_writes += 1
            job.workers.add(worker)
            self._waiting.append(job)
            return None
        if not job.is_piece:
            return failure
        return self.finished(job, give_up(job.task, failure.error))

    def died(self, job: Job, worker: str, error: str) -> TaskFailure | TaskResult | None:
        """Queue the job of a dead worker again, whole or split; return its outcome when it is finished or given up.

        Images that the worker had stored are not generated again. A training that saved a checkpoint since the last
        death has its attempts again. A judge's job continues separately.
        """
        if isinstance(job.task, GenerateTask) and self._keep_stored(job, job.task, worker):
            return self.finished(job, TaskResult(job.task.task_id, worker, 0.0))
        if isinstance(job.task, PrepareTask) and (now := learned(job.task)) != job.learned:
            job.learned, job.deaths = now, 0
        job.deaths += 1
        job.workers.add(worker)
        if isinstance(job.task, ScoreTask):
            self._deadly.add(fingerprint(job.task.evaluator))
        pieces = _split(job.task)
        if pieces and (job.is_piece or job.deaths >= self._attempts):
            self._open[job.root] = self._open.get(job.root, 1) + len(pieces) - 1
            self._parts.setdefault(job.root, [])
            self._waiting.extend(Job(piece, job.root) for piece in pieces)
            return None
        if job.deaths < (2 if job.is_piece else self._attempts):
            self._waiting.appendleft(job)
            return None
        if isinstance(job.task, GenerateTask | ScoreTask):
            return self.finished(job, give_up(job.task, error))
        return TaskFailure(job.root, error, job.deaths)

    def _keep_stored(self, job: Job, task: GenerateTask, worker: str) -> bool:
        """Take from a dead worker's job the images that it had stored; say whether none is left to make."""
        left, rows = _stored(task)
        if rows:
            self._open.setdefault(job.root, 1)
            self._parts.setdefault(job.root, []).append(TaskResult(task.task_id, worker, 0.0, images=rows))
            job.task = replace(task, items=left)
        return not left


def learned(task: PrepareTask) -> Learned:
    """Return what trainings of the task's cache have kept so far: their checkpoints, by name and time."""
    files = Path(task.cell.artifacts).rglob(f"{CHECKPOINT}*.safetensors")
    checkpoints = set()
    for file in files:
        with suppress(FileNotFoundError):
            checkpoints.add((str(file), file.stat().st_mtime_ns))
    return frozenset(checkpoints)


def n_images(task: Task) -> int:
    """Return how many images a task makes."""
    return len(task.items) if isinstance(task, GenerateTask) else 0


def _stored(task: GenerateTask) -> tuple[tuple[ImageItem, ...], tuple[ImageRow, ...]]:
    """Return the images that a task has still to make, and the rows of those that are on disk."""
    store = CellStore(Path(task.cell.folder), task.cell.cell_id)
    try:
        left, rows = store.missing(task.items), store.images()
    except (OSError, StorageError):  # what cannot be read is made again
        return task.items, ()
    to_make = {item.key for item in left}
    return left, tuple(rows[item.key] for item in task.items if item.key not in to_make)


def rest_of(task: Task, result: TaskResult) -> GenerateTask:
    """Return the task of making the images that a result could not write."""
    if not isinstance(task, GenerateTask):
        raise TypeError(f"{type(task).__name__} makes no images")
    return replace(task, task_id=f"{task.task_id}.again", items=result.unwritten)


def give_up(task: Task, error: str) -> TaskResult:
    """Record every image of a task as an error, and return the rows."""
    if isinstance(task, GenerateTask):
        origin = Origin(task.cell.cell_id, "none")
        rows = tuple(Outcome(item, None, Status.ERROR, error=error).row(None, origin) for item in task.items)
        try:
            CellStore(Path(task.cell.folder)).append_images(attempt_id(task.task_id), rows)
        except (OSError, StorageError) as fault:
            if not is_passing(fault):
                raise
            log.warning("the errors of %d images could not be saved: %s", len(rows), fault)
        return TaskResult(task.task_id, "none", 0.0, images=rows)
    if isinstance(task, ScoreTask):
        scores = tuple(ScoreRow(one.key.prompt_id, one.key.repeat, error=error) for one in task.requests)
        return TaskResult(task.task_id, "none", 0.0, scores=scores)
    raise TypeError(f"{type(task).__name__} has no images")


def _split(task: Task) -> list[Task]:
    """Return the halves of a shard of several images; nothing for any other task."""
    if isinstance(task, GenerateTask) and len(task.items) > 1:
        middle = len(task.items) // 2
        return [
            replace(task, task_id=f"{task.task_id}.{index}", items=items)
            for index, items in enumerate((task.items[:middle], task.items[middle:]))
        ]
    return []


def joined(root: str, parts: list[TaskResult]) -> TaskResult:
    return TaskResult(
        root,
        "+".join(sorted({part.worker for part in parts})),
        sum(part.seconds for part in parts),
        images=tuple(row for part in parts for row in part.images),
        scores=tuple(row for part in parts for row in part.scores),
        info={"pieces": len(parts)},
        peak_memory_mb=max(part.peak_memory_mb for part in parts),
    )
