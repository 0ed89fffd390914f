"""One worker in this process: for one device, for debugging, and without Ray."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.pool.contract import Pool, Progress, Then
from harness.pool.outcome import failure
from harness.pool.queue import give_up, is_judging, joined, rest_of
from harness.pool.settings import PoolSettings
from harness.pool.signals import StopSignals
from harness.pool.tasks import Task, TaskFailure, TaskResult
from harness.pool.worker import Worker

if TYPE_CHECKING:
    from harness.pool.toolbox import Toolbox


class InlinePool(Pool):
    """Runs tasks one after the other, in the given order; with a judge, judges in a thread while images are made."""

    def __init__(self, settings: PoolSettings, toolbox: Toolbox) -> None:
        self._settings = settings
        self._toolbox = toolbox
        self._worker: Worker | None = None
        self._judge: _Judge | None = None
        self._task_id = ""
        self._on_progress: Progress | None = None

    @property
    def size(self) -> int:
        return 1

    def run(
        self, tasks: Iterable[Task], on_progress: Progress | None = None, then: Then | None = None
    ) -> Iterator[TaskResult | TaskFailure]:
        worker, judge = self._ready()
        self._on_progress = on_progress
        waiting = deque(tasks)
        with StopSignals(self._stop) as signals:
            while waiting or (judge and judge.is_busy):
                for outcome in self._turn(worker, judge, waiting):
                    waiting.extend(then(outcome) if then else ())
                    yield outcome
                signals.refuse_to_go_on()

    def workers(self) -> list[Mapping[str, Any]]:
        workers = [self._worker, self._judge.worker if self._judge else None]
        return [worker.hello() for worker in workers if worker is not None]

    def close(self) -> None:
        if self._judge is not None:
            self._judge.close()
        if self._worker is not None:
            self._worker.close()
        self._worker = self._judge = None

    def _turn(self, worker: Worker, judge: _Judge | None, waiting: deque[Task]) -> list[TaskResult | TaskFailure]:
        """Do one task; hand the judge its next one before, and collect what it has done after."""
        if judge is None:
            return [self._attempt(worker, waiting.popleft())]
        if not judge.is_busy and (task := _take(waiting, judging=True)):
            judge.start(task)
        task = _take(waiting, judging=False) or (waiting.popleft() if waiting else None)
        outcomes = [self._attempt(worker, task)] if task else []
        judged = judge.outcome(wait_for_it=task is None)
        if self._on_progress is not None:
            judge.report(self._on_progress)
        return [*outcomes, *([judged] if judged else [])]

    def _ready(self) -> tuple[Worker, _Judge | None]:
        settings = self._settings
        if self._worker is None:
            has_judge = settings.judge_workers(settings.uses_gpus) > 0
            gate = threading.Lock() if has_judge else None
            threads = settings.worker_threads
            self._worker = Worker("inline", self._toolbox, settings.device, threads, self._progress, gate,
                                  settings.hang_seconds)  # fmt: skip
            self._judge = _Judge(settings, self._toolbox, gate) if has_judge else None
        return self._worker, self._judge

    def _stop(self) -> None:
        for worker in (self._worker, self._judge.worker if self._judge else None):
            if worker is not None:
                worker.stop()

    def _attempt(self, worker: Worker, task: Task) -> TaskResult | TaskFailure:
        self._task_id = task.task_id
        return _attempt(worker, task, self._settings.attempts)

    def _progress(self, images: int) -> None:
        if self._on_progress is not None:
            self._on_progress(self._task_id, images)


class _Judge:
    """A worker in a thread of its own: one task at a time, its progress kept until it is asked for."""

    def __init__(self, settings: PoolSettings, toolbox: Toolbox, gate: threading.Lock | None) -> None:
        device = settings.device if settings.judge_gpus else "cpu"
        self.worker = Worker("judge", toolbox, device, settings.judge_threads, self._progress, gate,
                             settings.hang_seconds)  # fmt: skip
        self._attempts = settings.attempts
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge")
        self._running: tuple[str, Future[TaskResult | TaskFailure]] | None = None
        self._made: deque[tuple[str, int]] = deque()

    @property
    def is_busy(self) -> bool:
        return self._running is not None

    def start(self, task: Task) -> None:
        self._running = task.task_id, self._thread.submit(_attempt, self.worker, task, self._attempts)

    def outcome(self, wait_for_it: bool) -> TaskResult | TaskFailure | None:
        """Return the outcome of the running task, None if there is none yet."""
        if self._running is None:
            return None
        future = self._running[1]
        if wait_for_it:
            wait([future])
        if not future.done():
            return None
        self._running = None
        return future.result()

    def report(self, on_progress: Progress) -> None:
        """Tell, on the caller's thread, what was judged since the last call."""
        while self._made:
            on_progress(*self._made.popleft())

    def close(self) -> None:
        self.worker.stop()
        self._thread.shutdown()
        self.worker.close()

    def _progress(self, images: int) -> None:
        if self._running is not None:
            self._made.append((self._running[0], images))


def _attempt(worker: Worker, task: Task, attempts: int) -> TaskResult | TaskFailure:
    """Do a task; do what the storage did not take again, as long as there are attempts."""
    root, parts = task.task_id, list[TaskResult]()
    for left in reversed(range(attempts)):
        try:
            result = worker.run(task)
        except Exception as error:  # whatever a method or an evaluator raises fails its task, not the run
            failed = failure(task, error, attempts - left)
            if failed.may_pass and left:
                continue
            return failed
        parts.append(replace(result, unwritten=()))
        if not result.unwritten:
            break
        task = rest_of(task, result)
        if not left:
            parts.append(give_up(task, result.write_error))
    return parts[0] if len(parts) == 1 else joined(root, parts)


def _take(waiting: deque[Task], judging: bool) -> Task | None:
    """Remove and return the first task that is, or is not, one of judging."""
    for task in waiting:
        if is_judging(task) is judging:
            waiting.remove(task)
            return task
    return None
