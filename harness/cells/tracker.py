"""What the driver tells a tracker, such as Weights & Biases, of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Le

from harness.cells.tracker_key import has_key
from harness.declared import Declared, Values
from harness.errors import unknown_name
from harness.records import ImageRow, ScoreRow
from harness.setting_types import Text

Config = Mapping[str, Any]
Scores = Mapping[str, Sequence[ScoreRow]]


MODES = {"online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline",
         "disabled": "disabled"}  # what WANDB_MODE may be
PROJECT = "responsible-t2i-harness"


@dataclass(frozen=True)
class TrackerSettings(Declared):
    """What a tracker is told. What is null follows W&B's own variables: WANDB_MODE, WANDB_PROJECT, ...

    Without WANDB_MODE, `mode` is online where there is a key of Weights & Biases, else offline.
    """

    settings_of: ClassVar[str] = "tracker"

    name: Text = "wandb"
    mode: Literal["offline", "online", "disabled"] | None = None
    project: Text | None = None
    entity: Text | None = None
    images: Annotated[int, Ge(0), Le(1000)] = 32
    upload_images: bool | None = False
    group: Text | None = None
    tags: tuple[Text, ...] | None = None
    weights_mb: Annotated[int, Ge(0)] = 100

    @classmethod
    def completed(cls, values: Values) -> Values:
        tags = [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip()]
        return values | {
            "mode": values["mode"] or _mode(),
            "project": values["project"] or os.environ.get("WANDB_PROJECT") or PROJECT,
            "entity": values["entity"] or os.environ.get("WANDB_ENTITY") or None,
            "group": values["group"] or os.environ.get("WANDB_RUN_GROUP") or None,
            "tags": tuple(tags) if values["tags"] is None else values["tags"],
        }


def _mode() -> str:
    given = os.environ.get("WANDB_MODE")
    if not given:
        return "online" if has_key() else "offline"
    if given not in MODES:
        raise unknown_name("WANDB_MODE", given, MODES)
    return MODES[given]


class Tracker(Protocol):
    """What the driver tells a tracker."""

    def log_progress(self, cell: Config, done: int, total: int, images_per_second: float) -> None: ...

    def log_cell(
        self, summary: Config, config: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None: ...

    def log_board(self, results: Path) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """Logs nothing."""

    def log_progress(self, cell: Config, done: int, total: int, images_per_second: float) -> None:
        pass

    def log_cell(
        self, summary: Config, config: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None:
        pass

    def log_board(self, results: Path) -> None:
        pass

    def close(self) -> None:
        pass
