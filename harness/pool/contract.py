"""The pool's contract: tasks go in, results come out as they finish. Knows no Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from harness.errors import HarnessError
from harness.lib.ending import INTERRUPTED
from harness.pool.tasks import Task, TaskFailure, TaskResult

Progress = Callable[[str, int], None]
"""Called on the driver's thread with a task id and the number of images finished since the last call."""

Then = Callable[[TaskResult | TaskFailure], Iterable[Task]]
"""Called on the driver's thread with each outcome; returns the tasks that it gives rise to."""


class Interrupted(HarnessError):
    """The user or the scheduler asked to stop; what was running has been finished and stored."""

    exit_code = INTERRUPTED


class Lost(HarnessError):
    """What runs the workers has died. What was made is kept."""


class Pool(ABC):
    """Workers that stay warm from one `run` to the next. `replaced` counts those that died at work."""

    replaced: int = 0

    @abstractmethod
    def run(
        self, tasks: Iterable[Task], on_progress: Progress | None = None, then: Then | None = None
    ) -> Iterator[TaskResult | TaskFailure]:
        """Yield one outcome per task, those that `then` adds among them, in the order they finish.

        Images are made first: workers judge when there is nothing to make, unless judges of their own do.

        A task whose worker dies is tried again, on another worker where there is one. A shard that kills its
        workers is split, and its pieces are joined again: its outcome carries the rows of all pieces, and the
        image at fault has an `error` row. Raises StorageError when the results folder fails, and Interrupted on
        SIGINT or SIGTERM after the running batches have ended and their results were yielded.
        """

    @abstractmethod
    def workers(self) -> list[Mapping[str, Any]]:
        """Return what each worker that was ever ready said of itself: name, host, device, hardware, versions."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Return how many workers there will be, without starting any."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
