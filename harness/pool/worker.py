"""A worker: holds a model with its methods and evaluators, turns tasks into files and rows. Knows no Ray."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.cells.store import CellStore, EvaluatorKey, FeatureBlock, StoredScore, attempt_id
from harness.cells.writer import ImageWriter
from harness.errors import IncompatibleError, StoppedError, StorageError
from harness.evaluator import SetEvaluator
from harness.lib.atomic import PassingFault, is_passing, write_atomic
from harness.lib.hashing import file_hash
from harness.lib.machine import hardware_name, peak_memory_mb, versions, versions_text
from harness.pool.judging import Judged, Judges
from harness.pool.tasks import GenerateTask, PrepareTask, ReferenceTask, ScoreTask, Task, TaskResult, fingerprint
from harness.pool.toolbox import Toolbox
from harness.pool.work_notes import at_work
from harness.pool.worker_cache import Holding
from harness.records import CellSpec, ImageItem, ImageKey, ImageRow, Origin, ScoreItem, WrittenImage
from harness.sampling.batches import BatchRunner, Outcome, describe

_T = TypeVar("_T")

HANG_SECONDS = 900.0


class Worker:
    """Runs one task at a time. `beat` and `stop` may be called from other threads meanwhile."""

    def __init__(
        self,
        name: str,
        toolbox: Toolbox,
        device: str = "auto",
        threads: int = 1,
        on_images: Callable[[int], None] | None = None,
        gate: threading.Lock | None = None,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        """Load nothing yet. `gate` is shared by the workers of one process: evaluators are loaded between batches.

        Loading changes torch's default dtype and initialisers, which belong to the process and not to a thread.
        An evaluator that does not answer for `hang_seconds` continues in a process of its own.
        """
        self.name = name
        self._tools = toolbox
        self._device_asked = device
        self._threads = threads
        self._device: str | None = None
        self._holding = Holding(self._tools)
        self._writer = ImageWriter()
        self._batch_sizes: dict[str, int] = {}
        self._on_images = on_images
        self._images = 0
        self._stopping = False
        self._signs = 0
        self._made_on: tuple[str, str, str] | None = None  # host, hardware, versions
        self._gate: AbstractContextManager[Any] = gate or nullcontext()
        self._judges = Judges(self._tools, self._holding, threads, hang_seconds, self._sign, self._gate)

    def hello(self) -> dict[str, Any]:
        """Return who and where this worker is; starts the device."""
        return {
            "name": self.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": self.device,
            "hardware": hardware_name(self.device),
            "threads": self._threads,
            "versions": versions(),
        }

    def probe(self, folder: str) -> str:
        """Write a file named after its content into `folder`; return its path. Raises StorageError."""
        text = uuid.uuid4().hex
        path = Path(folder) / f".probe-{text}"
        write_atomic(path, text.encode())
        return str(path)

    def beat(self) -> int:
        """Return how many images this worker has finished, made or judged."""
        return self._images

    def signs(self) -> int:
        """Return how often this worker showed that it gets on: an image, a step of training, a wait with a limit."""
        return self._signs

    def stop(self) -> None:
        """Let `run` return after the batch that is running, now and for every later task."""
        self._stopping = True

    def run(self, task: Task) -> TaskResult:
        """Do a task and store its results. Raises HarnessError, and whatever a method or evaluator raises.

        Raises PassingFault where the storage failed and may not the next time.
        """
        started, before = time.perf_counter(), self._images
        try:
            result = self._dispatch(task)
        except (OSError, StorageError) as error:
            if not is_passing(error):
                raise
            raise PassingFault(describe(error)) from error
        info = {**result.info, "stopped": self._stopping, "count": self._images - before}
        seconds = time.perf_counter() - started
        return replace(result, seconds=seconds, info=info, peak_memory_mb=peak_memory_mb())

    def close(self) -> None:
        """Detach the methods and end the writer."""
        self._judges.close()
        self._holding.release()
        self._writer.close()

    @property
    def device(self) -> str:
        """Return the device in use, starting it at the first call."""
        if self._device is None:
            self._device = self._tools.start(self._device_asked, self._threads)
        return self._device

    def _dispatch(self, task: Task) -> TaskResult:
        match task:
            case PrepareTask():
                return self._prepare(task)
            case GenerateTask():
                return self._generate(task)
            case ScoreTask():
                return self._score(task)
            case ReferenceTask():
                return self._reference(task)

    def _prepare(self, task: PrepareTask) -> TaskResult:
        model = self._holding.bare_model(task.cell, self.device)

        def is_stopping() -> bool:
            self._sign()
            return self._stopping

        try:
            info = self._tools.prepare(model, task.cell, is_stopping)
        except StoppedError:  # the same command continues from its checkpoint, or starts it again
            info = {}
        return TaskResult(task.task_id, self.name, 0.0, info=info)

    def _generate(self, task: GenerateTask) -> TaskResult:
        with self._gate:
            session = self._holding.session(task.cell, self.device)
        _check_artifact(task.cell, session.artifact)
        place = fingerprint([task.cell.model, task.cell.settings.height, task.cell.settings.width])
        size = min(task.cell.settings.batch_size, self._batch_sizes.get(place, task.cell.settings.batch_size))
        runner = BatchRunner(session, replace(task.cell.settings, batch_size=size), self._tools.free)
        store = CellStore(Path(task.cell.folder))
        made: list[tuple[Outcome, Future[WrittenImage] | None]] = []
        try:
            position = 0
            while position < len(task.items) and not self._stopping:
                batch = task.items[position : position + runner.batch_size]
                position += len(batch)
                with self._gate:
                    outcomes = runner.run(batch)
                for outcome in outcomes:
                    made.append(self._queue(store, outcome))
                self._count(len(batch))
        finally:
            self._batch_sizes[place] = runner.batch_size
            rows, unwritten, error = self._record(store, task, made, session.artifact)
        info = {"batch_size": runner.batch_size}
        return TaskResult(task.task_id, self.name, 0.0, rows, info=info, unwritten=unwritten, write_error=error)

    def _queue(self, store: CellStore, outcome: Outcome) -> tuple[Outcome, Future[WrittenImage] | None]:
        if outcome.image is None:
            return outcome, None
        written = self._writer.submit(store, outcome.item.key, outcome.image)
        return replace(outcome, image=None), written

    def _record(
        self, store: CellStore, task: GenerateTask, made: Sequence[tuple[Outcome, Future[WrittenImage] | None]],
        artifact: str | None,
    ) -> tuple[tuple[ImageRow, ...], tuple[ImageItem, ...], str]:  # fmt: skip
        """Wait until every write has ended and record what is on disk.

        Return the rows, what was not written for a reason that may pass, and that reason. Raises what else went wrong.
        """
        failures = [written.exception() if written is not None else None for _, written in made]
        origin = self._origin(task.cell, artifact)
        rows = tuple(
            outcome.row(written.result() if written is not None else None, origin)
            for (outcome, written), failure in zip(made, failures, strict=True)
            if failure is None
        )
        passing = [failure for failure in failures if failure is not None and is_passing(failure)]
        unwritten = [outcome.item for (outcome, _), failure in zip(made, failures, strict=True) if failure in passing]
        try:
            if rows:
                store.append_images(attempt_id(task.task_id), rows)
        except (OSError, StorageError) as error:
            if not is_passing(error):
                raise
            rows, unwritten, passing = (), [outcome.item for outcome, _ in made], [*passing, error]
        for failure in failures:
            if failure is not None and failure not in passing:
                raise failure
        return rows, tuple(unwritten), describe(passing[0]) if passing else ""

    def _score(self, task: ScoreTask) -> TaskResult:
        with at_work(Path(task.cell.folder), fingerprint(task.evaluator)) as was_deadly:
            return self._judge(task, task.apart or was_deadly)

    def _judge(self, task: ScoreTask, apart: bool) -> TaskResult:
        evaluator = self._judges.ready(task.evaluator, self.device, apart)
        store, key = CellStore(Path(task.cell.folder)), EvaluatorKey.of(evaluator)
        parts: list[Judged] = []
        hashes: dict[ImageKey, tuple[str | None, str | None]] = {}
        for requests in self._until_stopped(_chunks(task.requests, task.batch_size)):
            # Hashed before it is read: an image that changes in between gives a score that does not count.
            hashes.update({one.key: (_hash(one.image), _hash(one.baseline)) for one in requests})
            parts.append(self._judges.judge(task.evaluator, evaluator, requests, task.batch_size, self.device))
            self._count(len(requests))
        judged, attempt = Judged.join(parts), attempt_id(task.task_id)
        if judged.rows:
            store.append_scores(key, attempt, [StoredScore(row, *hashes[row.key]) for row in judged.rows])
        if judged.features is not None:
            sha256 = tuple(hashes[one][0] or "" for one in judged.keys)
            store.write_features(key, attempt, FeatureBlock(judged.keys, sha256, judged.features))
        return TaskResult(task.task_id, self.name, 0.0, scores=judged.rows, info={"n_features": len(judged.keys)})

    def _reference(self, task: ReferenceTask) -> TaskResult:
        path = Path(task.file)
        if path.is_file():
            return TaskResult(task.task_id, self.name, 0.0, info={"cached": True})
        evaluator = self._judges.ready(task.evaluator, self.device)
        if not isinstance(evaluator, SetEvaluator):
            raise TypeError(f"{task.evaluator.get('name')} has no features")
        features: list[np.ndarray] = []
        count = 0
        for images in self._until_stopped(_batched(self._tools.reference_images(task.reference), 32)):
            items = [_reference_item(count + index, image) for index, image in enumerate(images)]
            features.append(self._judges.watch(task.evaluator, partial(evaluator.features, items)))
            count += len(images)
            self._count(len(images))
        if not self._stopping:
            sink = BytesIO()
            np.savez(sink, features=np.concatenate(features).astype(np.float32))
            write_atomic(path, sink.getvalue())
        return TaskResult(task.task_id, self.name, 0.0, info={"n_features": count})

    def _until_stopped(self, blocks: Iterator[_T]) -> Iterator[_T]:
        for block in blocks:
            if self._stopping:
                return
            yield block

    def _origin(self, cell: CellSpec, artifact: str | None) -> Origin:
        if self._made_on is None:
            self._made_on = socket.gethostname(), hardware_name(self.device), versions_text()
        return Origin(cell.cell_id, self.name, artifact, *self._made_on)

    def _sign(self) -> None:
        self._signs += 1

    def _count(self, images: int) -> None:
        self._sign()
        self._images += images
        if self._on_images is not None:
            self._on_images(images)


def _check_artifact(cell: CellSpec, artifact: str | None) -> None:
    """Refuse to draw with another artifact than the one that this run found: a cell's images are of one training."""
    known = cell.artifact or (CellStore(Path(cell.folder), cell.cell_id).artifact() if artifact else None)
    if known not in (None, artifact):
        raise IncompatibleError(f"{cell.name}: the artifact {known} was replaced by {artifact} while images "
                                "were generated with it.", "Run the command again.")


def _reference_item(index: int, image: np.ndarray) -> ScoreItem:
    return ScoreItem(ImageKey("reference", index), "", (), {}, image)


def _hash(file: str | None) -> str | None:
    try:
        return file_hash(Path(file)) if file is not None else None
    except FileNotFoundError:  # the evaluator will say so, image by image
        return None


def _chunks(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _batched(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch
