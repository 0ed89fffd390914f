"""What every pool promises. The generator is a fake that draws from seeds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cells.store import CellStore, EvaluatorKey
from harness.errors import StorageError
from harness.pool import Interrupted
from harness.pool.signals import StopSignals
from harness.pool.tasks import PrepareTask, ScoreTask, TaskFailure, TaskResult
from harness.pool.worker import Worker
from harness.records import ImageKey, ScoreItem, Status
from tests.support.fakes import FakeJudge, fake_cell, fake_items, fake_shards, image_bytes, noted, wait_until
from tests.support.pool_common import MakePool, at_gate, event_after

pytest_plugins = ["tests.support.pool_fixtures"]

KINDS = ["inline", pytest.param("ray", marks=pytest.mark.ray)]


def send_sigint() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_has_one_outcome_and_the_bytes_of_a_single_worker(
    make: MakePool, kind: str, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cell, seen = fake_cell(tmp_path / "cell"), []
    shards = fake_shards(cell, fake_items(20), 6)
    outcomes = list(make(kind).run(reversed(shards), lambda task, count: seen.append((task, count))))
    assert sorted(outcome.task_id for outcome in outcomes) == [shard.task_id for shard in shards]
    assert all(isinstance(outcome, TaskResult) for outcome in outcomes)
    assert image_bytes(tmp_path / "cell") == expected
    assert len(CellStore(tmp_path / "cell").done()) == 20
    for shard in shards:
        assert sum(count for task, count in seen if task == shard.task_id) == len(shard.items)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_stay_warm_between_runs(make: MakePool, kind: str, tmp_path: Path) -> None:
    pool, cell = make(kind), fake_cell(tmp_path / "cell")
    for start in (0, 20, 40):
        list(pool.run(fake_shards(cell, fake_items(8, start=start), 4)))
    assert 1 <= noted(tmp_path / "notes" / "loaded", "fake") <= len(pool.workers()) <= 2  # one may do all the work


@pytest.mark.parametrize("kind", KINDS)
def test_workers_say_who_they_are(make: MakePool, kind: str, tmp_path: Path) -> None:
    pool = make(kind)
    assert pool.workers() == []
    list(pool.run(fake_shards(fake_cell(tmp_path / "cell"), fake_items(2))))
    for worker in pool.workers():
        assert {"name", "host", "pid", "device", "hardware", "versions"} <= set(worker)
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_one_failing_task_does_not_hide_the_others(make: MakePool, kind: str, tmp_path: Path) -> None:
    good, absent = fake_cell(tmp_path / "good"), fake_cell(tmp_path / "absent", model="absent")
    broken = fake_items(4, dict.fromkeys(range(4), "raise"))
    tasks = [
        *fake_shards(fake_cell(tmp_path / "broken", "broken"), broken),
        *fake_shards(absent, fake_items(1))[:1],
        PrepareTask("prepare", good),
        *fake_shards(good, fake_items(4)),
    ]
    tasks[1] = type(tasks[1])("absent", absent, tasks[1].items)
    outcomes = {outcome.task_id: outcome for outcome in make(kind).run(tasks)}
    failed = {name: (one.error, one.user_error) for name, one in outcomes.items() if isinstance(one, TaskFailure)}
    assert failed == {
        "broken-000": ("EveryImageFailed: none of 4 images could be generated: ValueError: cannot draw 'raise'", False),
        "absent": ("the weights of absent are not here. Get them.", True),
    }
    assert len(CellStore(tmp_path / "good").done()) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_prompt_is_an_error_row(make: MakePool, kind: str, tmp_path: Path) -> None:
    (result,) = make(kind).run(fake_shards(fake_cell(tmp_path / "cell"), fake_items(8, {3: "raise"})))
    assert isinstance(result, TaskResult)
    assert [row.prompt_id for row in result.images if row.status is Status.ERROR] == ["p003"]


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_runs_on_the_same_workers(make: MakePool, kind: str, tmp_path: Path) -> None:
    pool, cell = make(kind), fake_cell(tmp_path / "cell")
    list(pool.run(fake_shards(cell, fake_items(8))))
    rows = CellStore(tmp_path / "cell").images().values()
    asked = tuple(ScoreItem(row.key, row.prompt, row.category, {}, f"{cell.folder}/{row.file}") for row in rows)
    (result,) = pool.run([ScoreTask("score", cell, {"name": "fake_judge", "threshold": 9}, asked)])
    assert isinstance(result, TaskResult)
    assert len(CellStore(tmp_path / "cell").scores(EvaluatorKey.of(FakeJudge(threshold=9)))) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_judged_while_others_are_made(make: MakePool, kind: str, tmp_path: Path) -> None:
    pool = make(kind, workers=1, judges=1) if kind == "ray" else make(kind, judges=1)
    cell, judge = fake_cell(tmp_path / "cell"), {"name": "fake_judge", "threshold": 9}
    store, judged_meanwhile = CellStore(tmp_path / "cell"), []

    def scores() -> int:
        return len(store.scores(EvaluatorKey.of(FakeJudge(threshold=9))))

    def then(outcome: TaskResult | TaskFailure) -> list[ScoreTask]:
        if not isinstance(outcome, TaskResult) or not outcome.images:
            return []
        asked = tuple(ScoreItem(row.key, "", (), {}, f"{cell.folder}/{row.file}") for row in outcome.images)
        return [ScoreTask(f"score-{outcome.task_id}", cell, judge, asked)]

    list(pool.run(fake_shards(cell, fake_items(4), 4), then=then))  # loading waits for the end of a batch: it is done
    # The third shard ends only when the second one's images have been judged, or too much time has gone by.
    watcher = at_gate(
        tmp_path / "notes",
        lambda: judged_meanwhile.append(is_soon(lambda: scores() == 8)),
        (tmp_path / "notes" / "open").touch,
    )
    outcomes = list(pool.run(fake_shards(cell, fake_items(12, {8: "gate"})[4:], 4), then=then))
    watcher.join()
    assert judged_meanwhile == [True]
    assert sorted(outcome.task_id for outcome in outcomes)[-1].startswith("score-") and len(outcomes) == 4
    assert scores() == 12


def is_soon(happened: Callable[[], bool]) -> bool:
    try:
        wait_until(happened, deadline=60)
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_before_judging_where_nobody_only_judges(make: MakePool, kind: str, tmp_path: Path) -> None:
    pool = make(kind, workers=1, judges=0) if kind == "ray" else make(kind)
    cell, judge = fake_cell(tmp_path / "cell"), {"name": "fake_judge", "threshold": 9}
    asked = (ScoreItem(ImageKey("p000", 0), "", (), {}, "absent"),)
    added = iter([[ScoreTask("score", cell, judge, asked)]])
    shards = fake_shards(cell, fake_items(8), 4)
    outcomes = [outcome.task_id for outcome in pool.run(shards, then=lambda outcome: next(added, []))]
    assert outcomes == [*(shard.task_id for shard in shards), "score"]


@pytest.mark.parametrize("kind", KINDS)
def test_storage_that_fails_ends_the_run(make: MakePool, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="part of the path is a file"):
        list(make(kind).run(fake_shards(fake_cell(tmp_path / "file" / "cell"), fake_items(8))))


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_finishes_the_running_batch_and_says_interrupted(
    make: MakePool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(kind, **({"workers": 1} if kind == "ray" else {}))
    told = event_after(monkeypatch, *((type(pool), "_ask_to_stop") if kind == "ray" else (Worker, "stop")))
    cell, notes = fake_cell(tmp_path / "cell"), tmp_path / "notes"
    shards = fake_shards(cell, fake_items(32, {1: "gate"}), 16)
    outcomes: list[TaskResult | TaskFailure] = []
    before = signal.getsignal(signal.SIGINT)
    thread = at_gate(notes, send_sigint, told, (notes / "open").touch)
    with pytest.raises(Interrupted) as caught:
        for outcome in pool.run(shards):
            outcomes.append(outcome)
    thread.join()
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert [len(one.images) for one in outcomes if isinstance(one, TaskResult)] == [4]
    assert len(CellStore(tmp_path / "cell").done()) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_second_ctrl_c_leaves_at_once(
    make: MakePool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, notes = make(kind), tmp_path / "notes"
    noticed = event_after(monkeypatch, StopSignals, "_handle")
    thread = at_gate(notes, send_sigint, noticed, send_sigint)
    with pytest.raises(Interrupted, match="at once"):
        list(pool.run(fake_shards(fake_cell(tmp_path / "cell"), fake_items(8, {1: "gate"}))))
    thread.join()
    assert not (notes / "open").exists()
    assert CellStore(tmp_path / "cell").done() == set()
