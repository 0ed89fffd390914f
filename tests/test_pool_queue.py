"""Who gets which task, and what becomes of one whose worker died."""

from __future__ import annotations

from pathlib import Path

from harness.pool.queue import TaskQueue
from harness.tasks import TaskResult
from tests.fakes import fake_cell, fake_items, fake_shards


def test_worker_prefers_what_it_holds_then_what_nobody_holds(tmp_path: Path) -> None:
    cells = [fake_cell(tmp_path / method, method) for method in "ab"]
    queue = TaskQueue([shard for cell in cells for shard in fake_shards(cell, fake_items(4), 2)], attempts=3)
    a, b = (cell.holds for cell in cells)
    taken = [
        queue.take("w0", None, {"w1": None}),
        queue.take("w1", None, {"w0": a}),
        queue.take("w1", b, {"w0": a, "w2": b}),
        queue.take("w1", b, {"w0": a}),
    ]
    assert [job.task.task_id for job in taken if job] == ["a-000", "b-000", "b-002", "a-002"]


def test_task_that_killed_a_worker_goes_to_another_one(tmp_path: Path) -> None:
    queue = TaskQueue(fake_shards(fake_cell(tmp_path), fake_items(4), 4), attempts=5)
    job = queue.take("w0", None, {"w1": None})
    assert job is not None
    assert queue.died(job, "w0", "killed") is None
    assert queue.take("w0", None, {"w1": None}) is None
    assert queue.take("w1", None, {"w0": None}) is job
    assert queue.died(job, "w1", "killed") is None
    assert queue.take("w1", None, {"w0": None}) is job
    assert queue.died(job, "w1", "killed") is None
    assert queue.take("w1", None, {}) is job


def test_task_is_split_after_its_attempts_and_joined_again(tmp_path: Path) -> None:
    (shard,) = fake_shards(fake_cell(tmp_path), fake_items(4), 4)
    queue = TaskQueue([shard], attempts=2)
    for worker in ("w0", "w1"):
        job = queue.take(worker, None, {})
        assert job is not None
        assert queue.died(job, worker, "killed") is None
    pieces = [queue.take("w2", None, {}) for _ in range(2)]
    outcomes = [queue.finished(piece, TaskResult(piece.task.task_id, "w2", 1.0)) for piece in pieces if piece]
    assert outcomes[0] is None
    assert isinstance(outcomes[1], TaskResult)
    assert (outcomes[1].task_id, outcomes[1].seconds) == (shard.task_id, 2.0)
    assert len(queue) == 0
