"""What the driver tells a tracker, such as Weights & Biases, of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Le

from harness.declared import Declared, Values
from harness.records import ImageRow, ScoreRow
from harness.setting_types import Text

Config = Mapping[str, Any]
Scores = Mapping[str, Sequence[ScoreRow]]


@dataclass(frozen=True)
class TrackerSettings(Declared):
    """What a tracker is told. `mode` null: online where there is a key of Weights & Biases, else offline."""

    settings_of: ClassVar[str] = "tracker"

    name: Text = "wandb"
    mode: Literal["offline", "online", "disabled"] | None = None
    project: Text = "responsible-t2i-harness"
    entity: Text | None = None
    images: Annotated[int, Ge(0), Le(1000)] = 8
    upload_images: bool | None = False

    @classmethod
    def completed(cls, values: Values) -> Values:
        return values | {"mode": values["mode"] or ("online" if os.environ.get("WANDB_API_KEY") else "offline")}


class Tracker(Protocol):
    """What the driver tells a tracker."""

    def log_progress(self, cell: Config, done: int, total: int, images_per_second: float) -> None: ...

    def log_cell(
        self, summary: Config, config: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """Logs nothing."""

    def log_progress(self, cell: Config, done: int, total: int, images_per_second: float) -> None:
        pass

    def log_cell(
        self, summary: Config, config: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None:
        pass

    def close(self) -> None:
        pass
