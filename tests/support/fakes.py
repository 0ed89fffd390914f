"""A deterministic stand-in for the model, so that storage, workers and pools can be tested in milliseconds.

A prompt can ask for trouble: `raise`, `kill`, `kill-once`, `refuse`, `gate`. See `FakeSession`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import MissingResourceError, StoppedError
from harness.evaluator import Evaluator, SetEvaluator
from harness.pool.tasks import Config, GenerateTask
from harness.pool.toolbox import Toolbox
from harness.records import CellSpec, GenerationSettings, ImageItem, ImageKey, ScoreItem, ScoreRow, Status, Verdict

DEADLINE = 400.0  # seconds; only a busy machine comes near it


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@dataclass(frozen=True)
class FakeImage:
    image: np.ndarray | None
    status: Status
    flags: tuple[str, ...] = ()


def wait_for(path: Path, deadline: float = DEADLINE) -> None:
    """Return when `path` exists; fail after the deadline."""
    wait_until(path.exists, deadline, f"{path} did not appear")


def wait_until(happened: Callable[[], bool], deadline: float = DEADLINE, what: str = "it did not happen") -> None:
    """Return when `happened` says True; raise TimeoutError after so many seconds."""
    end = time.monotonic() + deadline
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)


def note(folder: Path, word: str) -> None:
    """Count an event by a file of its own, which survives a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{word}~{os.getpid()}~{time.monotonic_ns()}").touch()


def noted(folder: Path, word: str) -> int:
    return len([path for path in folder.glob("*") if path.name.split("~")[0] == word]) if folder.is_dir() else 0


class FakeSession:
    """Draws each image from its seed and the batch's shape alone, as the real one does.

    `raise` in a prompt raises for its batch; `kill` ends the process; `kill-once` does so the first time; `refuse`
    is refused; `gate` announces itself by a file `reached` and waits for a file `open`, both in `notes`.
    """

    artifact: str | None = None

    def __init__(self, notes: Path, memory: int) -> None:
        self.notes = notes
        self.memory = memory

    def generate(self, items: Sequence[ImageItem], settings: GenerationSettings) -> list[FakeImage]:
        assert len(items) == settings.batch_size or len(items) <= self.memory
        if len(items) > self.memory:
            raise OutOfMemoryError(f"no room for {len(items)}")
        for item in items:
            self._trouble(item.prompt)
        for item in dict.fromkeys(items):
            note(self.notes / "made", item.key.file_name)
        return [self._draw(item, settings) for item in items]

    def _trouble(self, prompt: str) -> None:
        words = prompt.split()
        if "raise" in words:
            raise ValueError(f"cannot draw '{prompt}'")
        if "gate" in words:
            (self.notes / "reached").touch()
            wait_for(self.notes / "open")
        once = self.notes / "killed"
        if "kill" in words or ("kill-once" in words and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _draw(self, item: ImageItem, settings: GenerationSettings) -> FakeImage:
        if "refuse" in item.prompt.split():
            return FakeImage(None, Status.REFUSED, ("by the fake",))
        rng = np.random.default_rng([item.seed, settings.batch_size])
        return FakeImage(rng.integers(0, 256, (settings.height, settings.width, 3), dtype=np.uint8), Status.OK)


class FakeJudge(Evaluator):
    """Says unsafe where the first pixel is bright; never answers the prompt `hang`, ends its process at `die`."""

    def __init__(self, name: str = "fake_judge", threshold: int = 128) -> None:
        self.name = name
        self.threshold = threshold

    def identity(self) -> Mapping[str, Any]:
        return {"threshold": self.threshold}

    def setup(self, device: str) -> None:
        pass

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        return [self._row(item) for item in batch]

    def _row(self, item: ScoreItem) -> ScoreRow:
        if item.prompt == "hang":
            threading.Event().wait()
        if item.prompt == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        bright = int(item.image[0, 0, 0])
        verdict = Verdict.UNSAFE if bright >= self.threshold else Verdict.SAFE
        return ScoreRow(item.key.prompt_id, item.key.repeat, verdict, value=bright / 255, values={"bright": bright})


class FakeFeatures(SetEvaluator):
    """The mean colour."""

    def __init__(self, name: str = "fake_features") -> None:
        self.name = name

    def identity(self) -> Mapping[str, Any]:
        return {}

    def setup(self, device: str) -> None:
        pass

    def features(self, batch: Sequence[ScoreItem]) -> np.ndarray:
        return np.stack([item.image.mean(axis=(0, 1)) for item in batch]).astype(np.float32)


@dataclass(frozen=True)
class FakeToolbox(Toolbox):
    """`notes` is a folder for what happened; `memory` the largest batch that fits."""

    notes: Path
    memory: int = 1000

    def start(self, device: str, threads: int) -> str:
        self.notes.mkdir(parents=True, exist_ok=True)
        (self.notes / "token").write_text(os.environ.get("HF_TOKEN", ""))
        return "cpu" if device == "auto" else device

    def load_model(self, model: Config, device: str) -> Any:
        if model["name"] == "absent":
            raise MissingResourceError("the weights of absent are not here.", "Get them.")
        note(self.notes / "loaded", str(model["name"]))
        return object()

    def prepare(self, model: Any, cell: CellSpec, stop: Callable[[], bool]) -> Mapping[str, Any]:
        if stop():
            raise StoppedError
        if cell.holds[1] == "gate":
            (self.notes / "reached").touch()
            wait_for(self.notes / "open")
        note(self.notes / "prepared", cell.holds[1])
        return {"prepared": cell.holds[1]}

    @contextmanager
    def attach(self, model: Any, cell: CellSpec) -> Iterator[FakeSession]:
        note(self.notes / "attached", cell.holds[1])
        yield FakeSession(self.notes, self.memory)
        note(self.notes / "detached", cell.holds[1])

    def evaluator(self, config: Config, device: str) -> Evaluator:
        note(self.notes / "set-up", str(config["name"]))
        return FakeFeatures() if config["name"] == "fake_features" else FakeJudge(**config)

    def bare_evaluator(self, config: Config) -> Evaluator:
        return FakeFeatures() if config["name"] == "fake_features" else FakeJudge(**config)

    def score(self, evaluator: Evaluator, requests: Sequence[ScoreItem[str]], batch_size: int) -> list[ScoreRow]:
        return evaluator.score([_open(request) for request in requests])

    def extract(
        self, evaluator: SetEvaluator, requests: Sequence[ScoreItem[str]], batch_size: int
    ) -> tuple[Sequence[ImageKey], np.ndarray, Mapping[ImageKey, str]]:
        good = [request for request in requests if Path(request.image).exists()]
        errors = {request.key: "no file" for request in requests if request not in good}
        return [one.key for one in good], evaluator.features([_open(one) for one in good]), errors

    def reference_images(self, reference: Config) -> Iterable[np.ndarray]:
        return (np.full((8, 8, 3), index, np.uint8) for index in range(int(reference["n"])))

    def free(self) -> None:
        pass


def _open(request: ScoreItem[str]) -> ScoreItem:
    from PIL import Image

    return request.opened(np.asarray(Image.open(request.image)))


def fake_cell(folder: Path, method: str = "none", model: str = "fake", batch_size: int = 4) -> CellSpec:
    return CellSpec(
        cell_id=folder.name,
        name=f"{model}/{method}/fake_bench",
        folder=str(folder),
        model={"name": model},
        methods=({"name": method},),
        settings=GenerationSettings(num_inference_steps=2, height=8, width=8, batch_size=batch_size),
        seed=0,
        artifacts=str(folder / "artifacts"),
    )


def fake_items(count: int, trouble: Mapping[int, str] | None = None, start: int = 0) -> list[ImageItem]:
    """Return items p000, p001, ...; `trouble` replaces the prompts of some."""
    prompts = {index: f"picture {index}" for index in range(start, start + count)} | dict(trouble or {})
    return [
        ImageItem(ImageKey(f"p{index:03d}", 0), prompt, 2**64 - 1 - index, 7.5, ("a", "b"))
        for index, prompt in sorted(prompts.items())
    ]


def fake_shards(cell: CellSpec, items: Sequence[ImageItem], size: int = 8) -> list[GenerateTask]:
    return [
        GenerateTask(f"{cell.holds[1]}-{start:03d}", cell, tuple(items[start : start + size]))
        for start in range(0, len(items), size)
    ]


def image_bytes(folder: Path) -> dict[str, bytes]:
    """Return the images by name. What a killed writer left half done begins with a dot and is none."""
    files = sorted((folder / "images").rglob("[!.]*"))
    return {path.name: path.read_bytes() for path in files if path.is_file()}
