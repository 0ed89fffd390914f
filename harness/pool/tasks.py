"""What the driver hands to a worker and what comes back. All of it is plain, picklable data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.lib.hashing import canonical_json
from harness.records import CellSpec, ImageItem, ImageRow, ScoreItem, ScoreRow

Config = Mapping[str, Any]


@dataclass(frozen=True)
class PrepareTask:
    """Train or solve what the cell's methods need, once; later tasks find it in the artifact cache."""

    task_id: str
    cell: CellSpec


@dataclass(frozen=True)
class GenerateTask:
    """One shard: make these images of this cell, write them, return their rows."""

    task_id: str
    cell: CellSpec
    items: tuple[ImageItem, ...]


@dataclass(frozen=True)
class ScoreTask:
    """Judge these images with this evaluator (a resolved config with `_target_`).

    `apart`: in a process of its own, for the evaluator was at work when a worker died.
    """

    task_id: str
    cell: CellSpec
    evaluator: Config
    requests: tuple[ScoreItem[str], ...]
    batch_size: int = 32
    apart: bool = False


@dataclass(frozen=True)
class ReferenceTask:
    """Extract a reference set's features once and write them to `file` (npz: `features` (N, D) float32)."""

    task_id: str
    evaluator: Config
    reference: Config
    file: str


Task = PrepareTask | GenerateTask | ScoreTask | ReferenceTask


@dataclass(frozen=True)
class TaskResult:
    """What a worker returns for a task. `peak_memory_mb` is the worker's resident peak so far.

    `unwritten` are images that were made and that the storage did not take, for a reason that may pass.
    """

    task_id: str
    worker: str
    seconds: float
    images: tuple[ImageRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    info: Config = field(default_factory=dict)
    peak_memory_mb: float = 0.0
    unwritten: tuple[ImageItem, ...] = ()
    write_error: str = ""


@dataclass(frozen=True)
class TaskFailure:
    """A task given up after its attempts: the last error, one line; whether the user can mend it, or it may pass."""

    task_id: str
    error: str
    attempts: int
    user_error: bool = False
    may_pass: bool = False


def fingerprint(value: object) -> str:
    """Return one text for equal resolved configs."""
    return canonical_json(value, other=_plain)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} in a resolved config")
