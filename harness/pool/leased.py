"""A pool that stops when this run loses its results folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.lib.lease import Lease
from harness.pool.contract import Pool, Progress, Then
from harness.pool.tasks import Task, TaskFailure, TaskResult


class LeasedPool(Pool):
    """Another pool, and the lease that is looked at after each of its outcomes."""

    def __init__(self, pool: Pool, lease: Lease) -> None:
        self._pool = pool
        self._lease = lease

    @property
    def size(self) -> int:
        return self._pool.size

    def run(
        self, tasks: Iterable[Task], on_progress: Progress | None = None, then: Then | None = None
    ) -> Iterator[TaskResult | TaskFailure]:
        """Run the tasks. Raises StorageError when another driver took the folder over."""
        for outcome in self._pool.run(tasks, on_progress, then):
            self._lease.check()
            yield outcome

    @property
    def replaced(self) -> int:  # type: ignore[override]
        return self._pool.replaced

    def workers(self) -> list[Mapping[str, Any]]:
        return self._pool.workers()

    def close(self) -> None:
        self._pool.close()
