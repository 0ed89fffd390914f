"""Interruptible training: what a loop stores to resume as if it had never stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, StorageError
from harness.lib.atomic import stray_files, write_atomic
from harness.training.training_state import (
    GENERATOR,
    LOSSES,
    WrongStateError,
    check_state,
    moments_of,
    read_state,
    signed,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
EVERY_SECONDS = 60.0
SAVING_SHARE = 0.05  # of the training's time at most; a whole U-Net with Adam's moments is 10 GB


@dataclass(frozen=True)
class Carried:
    """What the steps of a loop read and change besides the learned tensors; shapes stay the same.

    `tensors` change between `begin` and `commit` only, as averages of what is learned do. `generator` and `drawn`,
    small tensors, change at any time: they are copied at every `commit`.
    """

    generator: Generator | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    drawn: Mapping[str, Tensor] = field(default_factory=dict)


@contextmanager
def training_in(model: LoadedModel, folder: Path) -> Iterator[None]:
    """Let loops that train on `model` keep their checkpoints in `folder`."""
    model.training_folder = folder
    try:
        yield
    finally:
        model.training_folder = None


def forget_checkpoints(folder: Path) -> None:
    """Remove what interrupted trainings left: the artifact is there."""
    for file in (*folder.glob(f"{CHECKPOINT}*.safetensors"), *stray_files(folder)):
        with suppress(IsADirectoryError, PermissionError):  # nothing that a training wrote
            file.unlink(missing_ok=True)


class LoopMemory:
    """The state of a loop after its last whole step, in memory and now and then in `folder`.

    Used as a context: what ends the loop early leaves a checkpoint, and a loop of the same folder and name continues
    from there with the same numbers. `begin` and `commit` enclose the change of state that ends a step.
    """

    def __init__(self, folder: Path | None, adam: Any, learned: Mapping[str, Tensor], carried: Carried | None = None,
                 name: str = CHECKPOINT) -> None:
        self.file = folder / f"{name}.safetensors" if folder else None
        self.losses: list[float] = []
        self._adam, self._learned, self._carried = adam, learned, carried or Carried()
        self._saved = 0
        self._draws = self._drawn()
        self._whole = True
        self._due = time.monotonic() + EVERY_SECONDS

    def __enter__(self) -> LoopMemory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        if error is None:
            return
        try:
            self.save()
        except StorageError as problem:
            log.warning("the interrupted training left no checkpoint: %s", problem)

    def remaining(self, total: int) -> range:
        """Return the steps that are still to be taken of `total`, after those of a checkpoint of this training."""
        self._restore(total)
        self._draws = self._drawn()
        return range(len(self.losses), total)

    def begin(self) -> None:
        """Say that the state changes from here on; what is interrupted before `commit` is not kept."""
        self._whole = False

    def commit(self, loss: float) -> None:
        """End a step; save when it is time."""
        self.losses.append(loss)
        self._draws = self._drawn()
        self._whole = True
        if time.monotonic() >= self._due:
            self.save()

    def checked(self, value: float, name: str, rate: str = "method.learning_rate") -> float:
        """Return `value`. Raises HarnessError if it is not finite: at which step, and what is kept.

        `rate` is the setting to try.
        """
        if math.isfinite(value):
            return value
        self.save()
        raise broke_down(value, name, len(self.losses), rate, self.kept)

    @property
    def kept(self) -> str:
        """Say what is on disk."""
        return f"The state after step {self._saved} is saved in {self.file}." if self._saved else "Nothing was saved."

    def save(self) -> None:
        """Write a checkpoint if there is a folder, a step since the last one, and all of it is complete and finite."""
        from safetensors.torch import save

        if self.file is None or not self._whole or len(self.losses) == self._saved:
            return
        if not all(bool(value.isfinite().all()) for value in self._learned.values()):
            return
        start = time.monotonic()
        state = {name: value.detach().cpu().contiguous() for name, value in self._state().items()}
        write_atomic(self.file, save(state, signed(state, self._training)))
        self._saved, now = len(self.losses), time.monotonic()
        self._due = now + max(EVERY_SECONDS, (now - start) / SAVING_SHARE)

    def _state(self) -> dict[str, Tensor]:
        import torch

        moments = {f"adam.{index}.{key}": torch.as_tensor(value)
                   for index, values in self._adam.state_dict()["state"].items() for key, value in values.items()}
        return {**self._live(), **moments, **self._draws, LOSSES: torch.tensor(self.losses, dtype=torch.float64)}

    def _live(self) -> dict[str, Tensor]:
        """Return what is restored in place."""
        return ({f"learned.{name}": value for name, value in self._learned.items()}
                | {f"carried.{name}": value for name, value in self._carried.tensors.items()}
                | {f"drawn.{name}": value for name, value in self._carried.drawn.items()})

    def _drawn(self) -> dict[str, Tensor]:
        """Return a copy of what the next step draws from."""
        generator = self._carried.generator
        state = {GENERATOR: generator.get_state()} if generator is not None else {}
        return state | {f"drawn.{name}": value.clone() for name, value in self._carried.drawn.items()}

    @property
    def _training(self) -> str:
        """Return what a checkpoint is of: the artifact, by the key that its folder is named by, and the loop."""
        return f"{self.file.parent.name}/{self.file.stem}" if self.file else ""

    def _restore(self, total: int) -> None:
        import torch

        live = self._live()
        try:
            state = read_state(self.file, self._training) if self.file else None
            if state is None:
                return
            parameters = [value for group in self._adam.param_groups for value in group["params"]]
            check_state(state, live, parameters, self._carried.generator, total)
        except WrongStateError as error:
            log.warning("cannot resume from %s: %s. Training restarts.", self.file, error)
            return
        with torch.no_grad():
            for name, value in live.items():
                value.copy_(state[name])
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": moments_of(state), "param_groups": groups})
        if self._carried.generator is not None:
            self._carried.generator.set_state(state[GENERATOR])
        self.losses = state[LOSSES].tolist()
        self._saved = len(self.losses)
        log.info("training resumes after step %d, from %s", self._saved, self.file)


def adam_step(memory: LoopMemory, adam: Any, loss: float, after: Callable[[], None] | None = None) -> None:
    """Let Adam, and what follows it, end a step of the loop."""
    memory.begin()
    adam.step()
    if after is not None:
        after()
    memory.commit(loss)


def broke_down(value: float, name: str, step: int, rate: str = "method.learning_rate",
               kept: str = "Nothing was saved.") -> HarnessError:
    """Return the error for a non-finite loss or gradient at 0-based `step`."""
    return HarnessError(f"training of {name} diverged at step {step + 1}: the loss or its gradient is {value}.",
                        f"Try a lower {rate}. {kept}")
