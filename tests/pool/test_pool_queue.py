"""Who gets which task, and what becomes of one whose worker died."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cells.store import CellStore
from harness.pool.queue import TaskQueue
from harness.pool.tasks import GenerateTask, PrepareTask, ScoreTask, TaskFailure, TaskResult
from harness.pool.worker import Worker
from harness.records import CellSpec, ImageItem, ImageKey, ImageRow, ScoreItem, Status
from tests.support.fakes import FakeToolbox, fake_cell, fake_items, fake_shards


def store_images(cell: CellSpec, items: tuple[ImageItem, ...]) -> tuple[ImageRow, ...]:
    """Store images and their rows as a worker does before it answers."""
    return Worker("w", toolbox=FakeToolbox(Path(cell.folder) / "notes")).run(GenerateTask("early", cell, items)).images


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


def test_images_that_a_dead_worker_had_stored_are_not_made_again(tmp_path: Path) -> None:
    cell = fake_cell(tmp_path)
    (shard,) = fake_shards(cell, fake_items(4), 4)
    queue = TaskQueue([shard], attempts=3)
    store_images(cell, shard.items[:2])
    job = queue.take("w0", None, {})
    assert job is not None and queue.died(job, "w0", "killed") is None
    again = queue.take("w1", None, {})
    assert again is not None and again.task.items == shard.items[2:]
    store_images(cell, shard.items[2:])
    outcome = queue.died(again, "w1", "killed")
    assert isinstance(outcome, TaskResult) and outcome.task_id == shard.task_id
    assert [row.key for row in outcome.images] == [item.key for item in shard.items]
    assert len(queue) == 0


def test_images_of_a_dead_worker_that_are_damaged_are_made_again(tmp_path: Path) -> None:
    cell = fake_cell(tmp_path)
    (shard,) = fake_shards(cell, fake_items(2), 2)
    queue = TaskQueue([shard], attempts=3)
    rows = store_images(cell, shard.items)
    (tmp_path / str(rows[1].file)).write_bytes(b"half")
    job = queue.take("w0", None, {})
    assert job is not None and queue.died(job, "w0", "killed") is None
    again = queue.take("w1", None, {})
    assert again is not None and again.task.items == shard.items[1:]


def test_training_that_kept_something_since_its_last_death_is_not_given_up(tmp_path: Path) -> None:
    queue = TaskQueue([PrepareTask("train", fake_cell(tmp_path))], attempts=3)
    checkpoint = tmp_path / "artifacts" / "esd" / "key" / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    for death in range(9):
        job = queue.take("w0", None, {})
        assert job is not None
        checkpoint.write_bytes(b"steps" * death)
        assert queue.died(job, "w0", "killed") is None
    for _ in range(2):
        job = queue.take("w0", None, {})
        assert job is not None
        outcome = queue.died(job, "w0", "killed")
    assert outcome == TaskFailure("train", "killed", 3)


def test_evaluator_that_was_at_work_when_a_worker_died_goes_on_apart(tmp_path: Path) -> None:
    """And so do its other tasks: each would cost another worker."""
    cell, asked = fake_cell(tmp_path), (ScoreItem(ImageKey("p0", 0), "", (), {}, "absent"),)
    deadly, other = {"name": "deadly"}, {"name": "other"}
    tasks = [ScoreTask(name, cell, judge, asked) for name, judge in (("a", deadly), ("b", deadly), ("c", other))]
    queue = TaskQueue(tasks, attempts=3)
    job = queue.take("w0", None, {})
    assert job is not None and not job.task.apart
    assert queue.died(job, "w0", "killed") is None
    taken = [queue.take("w1", None, {}) for _ in tasks]
    assert {job.task.task_id: job.task.apart for job in taken if job} == {"a": True, "b": True, "c": False}


def test_image_that_was_not_written_is_made_elsewhere_then_an_error(tmp_path: Path) -> None:
    (shard,) = fake_shards(fake_cell(tmp_path), fake_items(4), 4)
    queue = TaskQueue([shard], attempts=3)
    for worker, other in (("w0", "w1"), ("w1", "w2"), ("w2", "w0")):
        job = queue.take(worker, None, {})
        assert job is not None
        left = job.task.items[-1:]
        result = TaskResult(job.task.task_id, worker, 1.0, unwritten=left, write_error="OSError: input/output error")
        outcome = queue.finished(job, result)
        assert queue.take(worker, None, {other: None}) is None  # it waits for another worker
    assert isinstance(outcome, TaskResult) and outcome.task_id == shard.task_id
    (row,) = outcome.images
    assert (row.prompt_id, row.status, row.error) == ("p003", Status.ERROR, "OSError: input/output error")
    assert CellStore(tmp_path).images() == {row.key: row}


@pytest.mark.parametrize("attempts", [1, 3])
def test_task_that_storage_failed_is_tried_again(tmp_path: Path, attempts: int) -> None:
    queue = TaskQueue([PrepareTask("train", fake_cell(tmp_path))], attempts)
    for left in reversed(range(attempts)):
        job = queue.take("w0", None, {})
        assert job is not None
        outcome = queue.failed(job, "w0", TaskFailure("train", "OSError: stale", 1, may_pass=True))
        assert (outcome is None) == bool(left)
