"""What the driver tells a tracker, such as Weights & Biases, of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.records import ImageRow, ScoreRow

Config = Mapping[str, Any]
Scores = Mapping[str, Sequence[ScoreRow]]


class Tracker(Protocol):
    """What the driver tells a tracker."""

    def log_progress(self, cell: Config, done: int, total: int, images_per_second: float) -> None: ...

    def log_cell(
        self, summary: Config, config: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """Tells nobody."""

    def log_progress(self, cell: Config, done: int, total: int, images_per_second: float) -> None:
        pass

    def log_cell(
        self, summary: Config, config: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None:
        pass

    def close(self) -> None:
        pass
