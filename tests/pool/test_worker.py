from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cells.store import CellStore, EvaluatorKey, WrittenImage
from harness.cells.writer import ImageWriter
from harness.errors import MissingResourceError, StorageError
from harness.pool import make_pool
from harness.pool.tasks import GenerateTask, PrepareTask, ReferenceTask, ScoreTask, TaskResult
from harness.pool.worker import Worker
from harness.records import CellSpec, ImageItem, ImageKey, ScoreItem, Status
from harness.sampling.batches import BrokenDevice, EveryImageFailed
from tests.support.fakes import (
    FakeFeatures,
    FakeJudge,
    FakeSession,
    FakeToolbox,
    fake_cell,
    fake_items,
    fake_shards,
    image_bytes,
    noted,
    wait_for,
)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker("w", toolbox=FakeToolbox(tmp_path / "notes"))


def generate(cell: CellSpec, items: list[ImageItem], name: str = "task") -> GenerateTask:
    return GenerateTask(name, cell, tuple(items))


def requests(cell: CellSpec) -> tuple[ScoreItem[str], ...]:
    rows = CellStore(Path(cell.folder)).images().values()
    return tuple(
        ScoreItem(row.key, row.prompt, row.category, {}, f"{cell.folder}/{row.file}") for row in rows if row.file
    )


def test_rows_name_files_with_their_hash(worker: Worker, tmp_path: Path) -> None:
    cell, items = fake_cell(tmp_path / "cell"), fake_items(10)
    result = worker.run(generate(cell, items))
    store = CellStore(Path(cell.folder))
    assert store.done() == {item.key for item in items}
    assert store.images() == {row.key: row for row in result.images}
    assert [row.seed for row in result.images] == [item.seed for item in items]
    assert {row.category for row in result.images} == {("a", "b")}
    assert result.info["count"] == worker.beat() == 10
    assert result.peak_memory_mb > 1


def test_last_batch_is_padded_and_the_padding_dropped(worker: Worker, tmp_path: Path) -> None:
    whole, cut = fake_cell(tmp_path / "whole"), fake_cell(tmp_path / "cut")
    worker.run(generate(whole, fake_items(8)))
    for start in range(0, 8, 3):
        worker.run(generate(cut, fake_items(8)[start : start + 3]))
    assert image_bytes(Path(whole.folder)) == image_bytes(Path(cut.folder))
    assert len(image_bytes(Path(cut.folder))) == 8


def test_items_of_their_own_size_are_drawn_in_batches_of_one_shape(worker: Worker, tmp_path: Path) -> None:
    mixed, alone = fake_cell(tmp_path / "mixed"), fake_cell(tmp_path / "alone")
    sizes = {1: (24, 8), 3: (8, 16), 4: (24, 8)}  # width, height
    items = [replace(item, size=sizes.get(n)) for n, item in enumerate(fake_items(6))]
    worker.run(generate(mixed, items))
    for item in items:
        worker.run(generate(alone, [item]))
    found = image_bytes(Path(mixed.folder))
    assert found == image_bytes(Path(alone.folder))
    drawn = [Image.open(BytesIO(found[item.key.file_name])).size for item in items]
    assert drawn == [sizes.get(n, (8, 8)) for n in range(6)]


def test_one_bad_prompt_has_an_error_row_and_costs_no_other_image(worker: Worker, tmp_path: Path) -> None:
    good, bad = fake_cell(tmp_path / "good"), fake_cell(tmp_path / "bad")
    worker.run(generate(good, fake_items(8)))
    result = worker.run(generate(bad, fake_items(8, {2: "raise now"})))
    errors = [row for row in result.images if row.status is Status.ERROR]
    assert [(row.prompt_id, row.error, row.file) for row in errors] == [
        ("p002", "ValueError: cannot draw 'raise now'", None)
    ]
    expected = image_bytes(Path(good.folder))
    del expected["p002_00.png"]
    assert image_bytes(Path(bad.folder)) == expected
    assert CellStore(Path(bad.folder)).done() == {item.key for item in fake_items(8) if item.key.prompt_id != "p002"}


def test_a_method_that_always_raises_ends_the_task_after_one_batch(worker: Worker, tmp_path: Path) -> None:
    cell = fake_cell(tmp_path / "cell")
    items = fake_items(12, dict.fromkeys(range(4, 12), "raise"))
    with pytest.raises(EveryImageFailed, match="none of 4 images could be generated: ValueError"):
        worker.run(generate(cell, items))
    assert len(CellStore(Path(cell.folder)).done()) == 4


def test_out_of_memory_halves_the_batch_for_good(tmp_path: Path) -> None:
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "notes", memory=2))
    cell = fake_cell(tmp_path / "cell", batch_size=8)
    first = worker.run(generate(cell, fake_items(9)))
    assert {row.batch_size for row in first.images} == {2}
    assert {row.status for row in first.images} == {Status.OK}
    second = worker.run(generate(cell, fake_items(3, start=20), "second"))
    assert second.info["batch_size"] == 2


def test_out_of_memory_for_one_image_is_an_error_row(tmp_path: Path) -> None:
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "notes", memory=0))
    result = worker.run(generate(fake_cell(tmp_path / "cell"), fake_items(3)))
    assert {row.error for row in result.images} == {"OutOfMemoryError: no room for 1"}


def test_a_broken_device_is_no_fault_of_the_prompt(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(FakeSession, "generate", broken)
    with pytest.raises(BrokenDevice):
        worker.run(generate(fake_cell(tmp_path / "cell"), fake_items(3)))


def test_refused_prompts_have_rows_without_files(worker: Worker, tmp_path: Path) -> None:
    cell = fake_cell(tmp_path / "cell")
    result = worker.run(generate(cell, fake_items(4, {1: "refuse me"})))
    row = result.images[1]
    assert (row.status, row.file, row.flags) == (Status.REFUSED, None, ("by the fake",))
    assert len(CellStore(Path(cell.folder)).done()) == 4


def test_model_and_methods_are_loaded_once_and_swapped(worker: Worker, tmp_path: Path) -> None:
    plans = [("none", "fake"), ("none", "fake"), ("sld", "fake"), ("none", "other")]
    for index, (method, model) in enumerate(plans):
        cell = fake_cell(tmp_path / f"cell{index}", method, model)
        cell = fake_cell(tmp_path / "cell", method, model) if index < 3 else cell
        worker.run(generate(cell, fake_items(1, start=index), f"task{index}"))
    worker.close()
    notes = tmp_path / "notes"
    assert (noted(notes / "loaded", "fake"), noted(notes / "loaded", "other")) == (1, 1)
    assert (noted(notes / "attached", "none"), noted(notes / "attached", "sld")) == (2, 1)
    assert (noted(notes / "detached", "none"), noted(notes / "detached", "sld")) == (2, 1)


def test_stop_ends_after_the_running_batch_and_keeps_it(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    worker = Worker("w", toolbox=FakeToolbox(notes))
    cell = fake_cell(tmp_path / "cell")
    results = []
    thread = threading.Thread(
        target=lambda: results.append(worker.run(generate(cell, fake_items(12, {5: "gate"}))))
    )
    thread.start()
    wait_for(notes / "reached")
    assert worker.beat() == 4
    worker.stop()
    (notes / "open").touch()
    thread.join(timeout=60)
    assert results[0].info["stopped"] is True
    assert len(results[0].images) == len(CellStore(Path(cell.folder)).done()) == 8
    assert worker.run(generate(cell, fake_items(2, start=50), "later")).images == ()


def test_storage_that_fails_is_said_and_not_an_error_row(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        worker.run(generate(fake_cell(tmp_path / "file" / "cell"), fake_items(12)))


def test_full_disk_stops_the_shard_early(tmp_path: Path, tmpfs) -> None:
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "notes"))
    cell = fake_cell(tmpfs("size=64k") / "cell")
    with pytest.raises(StorageError, match="full"):
        worker.run(generate(cell, fake_items(2000)))
    assert noted(tmp_path / "notes" / "made", "p1999_00.png") == 0


def test_an_image_that_cannot_be_written_costs_no_other(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, items = fake_cell(tmp_path / "cell"), fake_items(4)
    write, failed = CellStore.write_image, threading.Event()

    def fail_the_last(store: CellStore, key: ImageKey, image: np.ndarray) -> WrittenImage:
        if key == items[-1].key:
            failed.set()
            raise StorageError("the disk is full.", "Free some space.")
        assert key != items[0].key or failed.wait(30)  # the first is still being written when the last has failed
        return write(store, key, image)

    monkeypatch.setattr(CellStore, "write_image", fail_the_last)
    with pytest.raises(StorageError, match="full"):
        worker.run(generate(cell, items))
    assert CellStore(Path(cell.folder)).done() == {item.key for item in items[:-1]}


def failing_once(monkeypatch: pytest.MonkeyPatch, method: str, code: int, name: str = "") -> None:
    """Let the first call of a method of the store, of an image where `name` is given, end with an error of the disk."""
    original, left = getattr(CellStore, method), [code]

    def fail(store: CellStore, key: object, *rest: object) -> object:
        if left and (not name or getattr(key, "prompt_id", None) == name):
            raise OSError(left.pop(), "the storage failed")
        return original(store, key, *rest)

    monkeypatch.setattr(CellStore, method, fail)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_fault_of_the_storage_that_passes_costs_one_image_and_only_for_a_moment(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    cell, items = fake_cell(tmp_path / "cell"), fake_items(12)
    failing_once(monkeypatch, "write_image", code, "p005")
    result = worker.run(generate(cell, items))
    assert [item.key.prompt_id for item in result.unwritten] == ["p005"]
    assert "the storage failed" in result.write_error
    assert len(CellStore(Path(cell.folder)).done()) == 11
    assert worker.run(generate(cell, list(result.unwritten), "again")).unwritten == ()
    assert len(CellStore(Path(cell.folder)).done()) == 12


@pytest.mark.parametrize("method", ["write_image", "append_images", "append_scores"])
def test_a_pool_tries_what_the_storage_did_not_take_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    cell, toolbox = fake_cell(tmp_path / "cell"), FakeToolbox(tmp_path / "notes")
    failing_once(monkeypatch, method, errno.EIO)
    pool = make_pool({"name": "inline", "device": "cpu"}, None, toolbox)
    shards = fake_shards(cell, fake_items(16))
    made = list(pool.run(shards))
    judged = list(pool.run([ScoreTask("score", cell, {"name": "fake_judge"}, requests(cell))]))
    pool.close()
    assert [outcome.task_id for outcome in made] == [shard.task_id for shard in shards]
    assert all(isinstance(outcome, TaskResult) for outcome in (*made, *judged))
    assert sorted(row.prompt_id for outcome in made for row in outcome.images) == [f"p{n:03d}" for n in range(16)]
    assert len(CellStore(Path(cell.folder)).done()) == 16
    assert len(CellStore(Path(cell.folder)).scores(EvaluatorKey.of(FakeJudge()))) == 16


def test_a_fault_that_does_not_pass_is_an_error_row_after_its_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = CellStore.write_image

    def fail(store: CellStore, key: ImageKey, image: np.ndarray) -> WrittenImage:
        if key.prompt_id == "p005":
            raise OSError(errno.EIO, "the storage failed")
        return write(store, key, image)

    monkeypatch.setattr(CellStore, "write_image", fail)
    cell = fake_cell(tmp_path / "cell")
    pool = make_pool({"name": "inline", "device": "cpu"}, None, FakeToolbox(tmp_path / "notes"))
    (outcome,) = pool.run(fake_shards(cell, fake_items(8)))
    pool.close()
    assert isinstance(outcome, TaskResult)
    errors = {row.prompt_id for row in outcome.images if row.status is Status.ERROR}
    assert errors == {"p005"}
    assert len(CellStore(Path(cell.folder)).done()) == 7


def test_rows_say_where_and_with_what_they_were_made(worker: Worker, tmp_path: Path) -> None:
    cell = fake_cell(tmp_path / "cell")
    worker.run(generate(cell, fake_items(2)))
    greeting = worker.hello()
    for row in CellStore(Path(cell.folder)).images().values():
        assert (row.host, row.hardware) == (greeting["host"], greeting["hardware"])
        assert f"torch {greeting['versions']['torch']}" in str(row.versions)


def test_missing_weights_are_the_users_to_mend(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        worker.run(generate(fake_cell(tmp_path, model="absent"), fake_items(1)))


def test_prepare_detaches_what_is_attached(worker: Worker, tmp_path: Path) -> None:
    cell = fake_cell(tmp_path / "cell")
    worker.run(generate(cell, fake_items(1)))
    result = worker.run(PrepareTask("prepare", fake_cell(tmp_path / "other", "safedir")))
    assert result.info["prepared"] == "safedir"
    assert noted(tmp_path / "notes" / "detached", "none") == 1
    assert noted(tmp_path / "notes" / "loaded", "fake") == 1


def test_scores_are_stored_under_the_evaluator_and_set_up_once(worker: Worker, tmp_path: Path) -> None:
    cell = fake_cell(tmp_path / "cell")
    worker.run(generate(cell, fake_items(5)))
    config = {"name": "fake_judge", "threshold": 100}
    for part in (requests(cell)[:3], requests(cell)[3:]):
        result = worker.run(ScoreTask(f"score-{len(part)}", cell, config, part, batch_size=2))
        assert len(result.scores) == result.info["count"] == len(part)
    stored = CellStore(Path(cell.folder)).scores(EvaluatorKey.of(FakeJudge(threshold=100)))
    assert len(stored) == 5
    assert all(row.verdict == ("unsafe" if row.values["bright"] >= 100 else "safe") for row in stored.values())
    assert noted(tmp_path / "notes" / "set-up", "fake_judge") == 1


def test_features_are_stored_with_errors_apart(worker: Worker, tmp_path: Path) -> None:
    cell = fake_cell(tmp_path / "cell")
    worker.run(generate(cell, fake_items(5)))
    asked = requests(cell)
    os.unlink(asked[3].image)
    result = worker.run(ScoreTask("features", cell, {"name": "fake_features"}, asked, batch_size=2))
    assert [(row.prompt_id, row.error) for row in result.scores] == [("p003", "no file")]
    blocks = list(CellStore(Path(cell.folder)).features(EvaluatorKey.of(FakeFeatures())))
    assert [key.prompt_id for block in blocks for key in block.keys] == ["p000", "p001", "p002", "p004"]
    assert blocks[0].features.shape == (4, 3)


def test_reference_features_are_extracted_once(worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "artifacts" / "reference.npz"
    task = ReferenceTask("reference", {"name": "fake_features"}, {"n": 70}, str(file))
    worker.run(task)
    features = np.load(file)["features"]
    assert features.dtype == np.float32
    assert features[:, 0].tolist() == list(range(70))
    assert worker.run(task).info["cached"] is True


def test_image_writer_waits_only_when_it_is_full(tmp_path: Path) -> None:
    store, gate, started = CellStore(tmp_path), threading.Event(), threading.Event()
    slow = store.write_image

    def write_image(*args):
        started.set()
        assert gate.wait(60)
        return slow(*args)

    store.write_image = write_image  # type: ignore[method-assign]
    writer = ImageWriter(threads=1, capacity=3)
    keys = [item.key for item in fake_items(4)]
    image = np.zeros((8, 8, 3), np.uint8)
    for key in keys[:3]:
        writer.submit(store, key, image)
    assert started.wait(60)
    fourth = threading.Thread(target=writer.submit, args=(store, keys[3], image))
    fourth.start()
    assert fourth.is_alive()
    gate.set()
    fourth.join(timeout=60)
    writer.close()
    assert len(image_bytes(tmp_path)) == 4


def test_hello_says_where_and_with_what(worker: Worker) -> None:
    greeting = worker.hello()
    assert greeting["pid"] == os.getpid()
    assert greeting["device"] == "cpu"
    assert set(greeting["versions"]) >= {"harness", "python", "torch", "diffusers", "transformers"}


def test_stopped_training_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    worker = Worker("one", toolbox=FakeToolbox(tmp_path / "notes"))
    worker.stop()
    result = worker.run(PrepareTask("prepare", fake_cell(tmp_path / "cell", "safedir")))
    assert result.info["stopped"] and "prepared" not in result.info
