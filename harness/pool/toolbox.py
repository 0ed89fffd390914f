"""What a worker needs from the rest of the harness: a contract, so that the pool knows neither torch nor methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from harness.lib.targets import build
from harness.pool.tasks import Config
from harness.records import CellSpec, ImageKey, ScoreItem, ScoreRow

if TYPE_CHECKING:
    import numpy as np

    from harness.evaluator import Evaluator, SetEvaluator
    from harness.sampling.batches import Session


class Toolbox(ABC):
    """The heavy parts behind a worker; picklable."""

    @abstractmethod
    def start(self, device: str, threads: int) -> str:
        """Set the number of compute threads and return the device that "auto" means."""

    @abstractmethod
    def load_model(self, model: Config, device: str) -> Any:
        """Load a model."""

    @abstractmethod
    def prepare(self, model: Any, cell: CellSpec, stop: Callable[[], bool]) -> Mapping[str, Any]:
        """Train or solve what the cell's methods need, into the artifact cache; return what is to be told of it.

        `stop` is asked at every step; when it says True, training ends with StoppedError and leaves no artifact.
        """

    @abstractmethod
    def attach(self, model: Any, cell: CellSpec) -> AbstractContextManager[Session]:
        """Attach the cell's methods; leaving the context restores the model."""

    @abstractmethod
    def evaluator(self, config: Config, device: str) -> Evaluator:
        """Build an evaluator and set it up."""

    def bare_evaluator(self, config: Config) -> Evaluator:
        """Build an evaluator and load nothing."""
        evaluator: Evaluator = build(config)
        return evaluator

    @abstractmethod
    def score(self, evaluator: Evaluator, requests: Sequence[ScoreItem[str]], batch_size: int) -> list[ScoreRow]:
        """Return one row per request, in order; what raises becomes unknown."""

    @abstractmethod
    def extract(
        self, evaluator: SetEvaluator, requests: Sequence[ScoreItem[str]], batch_size: int
    ) -> tuple[Sequence[ImageKey], np.ndarray, Mapping[ImageKey, str]]:
        """Return the keys that worked, their (N, D) float32 features, and the errors of the others."""

    @abstractmethod
    def reference_images(self, reference: Config) -> Iterable[np.ndarray]:
        """Yield the (H, W, 3) uint8 images of a reference set."""

    @abstractmethod
    def free(self) -> None:
        """Give memory that is no longer used back to the device."""
