"""One worker in this process: for one device, for debugging, and where Ray is not wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from harness.pool import Pool, Progress
from harness.pool.outcome import failure
from harness.pool.settings import PoolSettings
from harness.pool.signals import StopSignals
from harness.tasks import Task, TaskFailure, TaskResult
from harness.worker import Worker

if TYPE_CHECKING:
    from harness.toolbox import Toolbox


class InlinePool(Pool):
    """Runs tasks one after the other, in the given order."""

    def __init__(self, settings: PoolSettings, toolbox: Toolbox | None = None) -> None:
        self._settings = settings
        self._toolbox = toolbox
        self._worker: Worker | None = None
        self._task_id = ""
        self._on_progress: Progress | None = None

    @property
    def size(self) -> int:
        return 1

    def run(self, tasks: Iterable[Task], on_progress: Progress | None = None) -> Iterator[TaskResult | TaskFailure]:
        worker = self._ready()
        self._on_progress = on_progress
        with StopSignals(worker.stop) as signals:
            for task in tasks:
                self._task_id = task.task_id
                yield self._attempt(worker, task)
                signals.refuse_to_go_on()

    def workers(self) -> list[Mapping[str, Any]]:
        return [self._worker.hello()] if self._worker is not None else []

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ready(self) -> Worker:
        if self._worker is None:
            settings = self._settings
            self._worker = Worker(
                "inline", settings.device, settings.worker_threads, self._toolbox, on_images=self._progress
            )
        return self._worker

    def _attempt(self, worker: Worker, task: Task) -> TaskResult | TaskFailure:
        try:
            return worker.run(task)
        except Exception as error:  # whatever a method or an evaluator raises fails its task, not the run
            return failure(task, error, attempts=1)

    def _progress(self, images: int) -> None:
        if self._on_progress is not None:
            self._on_progress(self._task_id, images)
