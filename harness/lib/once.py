"""A question about a config that is asked once, however often its answer is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from harness.lib.hashing import canonical_json

_T = TypeVar("_T")


class Once(Generic[_T]):
    """A function of a config that keeps its answers. A question whose answer was an exception is asked again."""

    def __init__(self, ask: Callable[[Mapping[str, Any]], _T]) -> None:
        self._ask = ask
        self._answers: dict[str, _T] = {}

    def __call__(self, config: Mapping[str, Any]) -> _T:
        """Return the answer for this config, or for an equal one that was asked for before."""
        question = canonical_json(config, other=str)
        if question not in self._answers:
            self._answers[question] = self._ask(config)
        return self._answers[question]
