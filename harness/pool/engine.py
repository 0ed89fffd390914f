"""The toolbox of every run: models, methods and evaluators. torch and diffusers are imported in here, when used."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from harness.errors import StoppedError
from harness.lib.targets import build
from harness.method import Method, publish_concepts
from harness.pool.tasks import Config
from harness.pool.toolbox import Toolbox
from harness.records import CellSpec, ImageKey, ScoreItem, ScoreRow

if TYPE_CHECKING:
    import numpy as np

    from harness.evaluator import Evaluator, SetEvaluator
    from harness.sampling.batches import Session


class EngineToolbox(Toolbox):
    """The real one."""

    def start(self, device: str, threads: int) -> str:
        import torch

        from harness.lib.reproducible import allow_reproducible_gpu

        allow_reproducible_gpu()
        torch.set_num_threads(threads)
        if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
            return "cuda:0"
        return ("mps" if torch.backends.mps.is_available() else "cpu") if device == "auto" else device

    def load_model(self, model: Config, device: str) -> Any:
        from harness.models.loading import load_model

        return load_model(model, device)

    def prepare(self, model: Any, cell: CellSpec, stop: Callable[[], bool]) -> Mapping[str, Any]:
        def look(what: str, done: int, total: int) -> None:
            if stop():
                raise StoppedError

        self._artifacts(model, _methods(cell), cell, look)
        return {}

    def attach(self, model: Any, cell: CellSpec) -> AbstractContextManager[Session]:
        from harness.sampling.session import attached

        methods = _methods(cell)
        return attached(model, methods, self._artifacts(model, methods, cell))

    def evaluator(self, config: Config, device: str) -> Evaluator:
        from harness.evaluator import Evaluator as Judge

        evaluator: Evaluator = build(config, Judge)
        evaluator.setup(device)
        return evaluator

    def score(self, evaluator: Evaluator, requests: Sequence[ScoreItem[str]], batch_size: int) -> list[ScoreRow]:
        from harness.evaluators.scoring import score_requests

        return list(score_requests(evaluator, requests, batch_size))

    def extract(
        self, evaluator: SetEvaluator, requests: Sequence[ScoreItem[str]], batch_size: int
    ) -> tuple[Sequence[ImageKey], np.ndarray, Mapping[ImageKey, str]]:
        from harness.evaluators.scoring import extract_features

        return extract_features(evaluator, requests, batch_size)

    def reference_images(self, reference: Config) -> Iterable[np.ndarray]:
        images: Iterable[np.ndarray] = build(reference).images()
        return images

    def free(self) -> None:
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _artifacts(
        self,
        model: Any,
        methods: Sequence[Any],
        cell: CellSpec,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Any:
        from pathlib import Path

        from harness.training.artifacts import ArtifactCache, prepare_all, read_given

        given = read_given(cell.given, methods, cell.model) if cell.given else None
        return prepare_all(model, methods, ArtifactCache(Path(cell.artifacts)), progress, given)


def _methods(cell: CellSpec) -> list[Method]:
    return publish_concepts([build(config, Method) for config in cell.methods])
