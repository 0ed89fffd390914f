"""What a worker keeps loaded between tasks."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from harness.evaluator import Evaluator
from harness.pool.tasks import Config, fingerprint
from harness.pool.toolbox import Toolbox
from harness.records import CellSpec
from harness.sampling.batches import Session


class Holding:
    """One model, its methods attached, and every evaluator that was asked for."""

    def __init__(self, tools: Toolbox) -> None:
        self._tools = tools
        self._model: Any = None
        self._model_key: str | None = None
        self._session: Session | None = None
        self._session_key: str | None = None
        self._attached = ExitStack()
        self._evaluators: dict[str, Evaluator] = {}

    def bare_model(self, cell: CellSpec, device: str) -> Any:
        """Return the cell's model without any method attached."""
        self._detach()
        key = fingerprint(cell.model)
        if key != self._model_key:
            self._model, self._model_key = None, None
            self._tools.free()
            self._model = self._tools.load_model(cell.model, device)
            self._model_key = key
        return self._model

    def session(self, cell: CellSpec, device: str) -> Session:
        """Return the cell's model with its methods attached."""
        key = fingerprint([cell.model, cell.methods, cell.artifacts, cell.given])
        if self._session is None or key != self._session_key:
            model = self.bare_model(cell, device)
            self._session = self._attached.enter_context(self._tools.attach(model, cell))
            self._session_key = key
        return self._session

    def evaluator(self, config: Config, device: str) -> Evaluator:
        """Return the evaluator of this config, set up once."""
        key = fingerprint(config)
        if key not in self._evaluators:
            self._evaluators[key] = self._tools.evaluator(config, device)
        return self._evaluators[key]

    def held_evaluator(self, config: Config) -> Evaluator | None:
        """Return the evaluator of this config where it is set up already."""
        return self._evaluators.get(fingerprint(config))

    def forget_evaluator(self, config: Config) -> None:
        """Let go of one evaluator, which may still be at work somewhere."""
        self._evaluators.pop(fingerprint(config), None)

    def release(self) -> None:
        """Let go of everything."""
        self._detach()
        self._model, self._model_key = None, None
        self._evaluators.clear()
        self._tools.free()

    def _detach(self) -> None:
        self._session, self._session_key = None, None
        self._attached.close()
