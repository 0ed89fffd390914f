"""What an exception in a task means for the run."""

from __future__ import annotations

import logging

from harness.errors import HarnessError, StorageError
from harness.lib.atomic import is_passing
from harness.pool.tasks import Task, TaskFailure
from harness.sampling.batches import describe

log = logging.getLogger(__name__)


def failure(task: Task, error: Exception, attempts: int) -> TaskFailure:
    """Return the failure of a task that raised. A StorageError ends the run: it is raised again."""
    if is_passing(error):
        log.warning("task %s: storage error: %s", task.task_id, describe(error))
        return TaskFailure(task.task_id, describe(error), attempts, may_pass=True)
    if isinstance(error, StorageError):
        raise error
    if isinstance(error, HarnessError):
        return TaskFailure(task.task_id, str(error), attempts, user_error=True)
    log.error("task %s failed", task.task_id, exc_info=error)
    return TaskFailure(task.task_id, describe(error), attempts)
