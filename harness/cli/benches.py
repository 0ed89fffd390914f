"""Bench configs by name, for runs that say no more of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.cli.compose import compose_jobs
from harness.errors import HarnessError


class Benches(dict[str, Mapping[str, Any]]):
    """Bench configs by name, composed when they are asked for."""

    def __init__(self, config_dirs: Sequence[str]) -> None:
        super().__init__()
        self._config_dirs = config_dirs

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            try:
                self[name] = compose_jobs([f"bench={name}"], False, self._config_dirs)[0].bench
            except HarnessError:
                return default
        return self[name]
