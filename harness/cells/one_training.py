"""All images of a cell are drawn with one training: which one it is, and what to say where another has taken its place.

A cell's id names what its methods are to learn, an image's row the content of what they had learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from harness.cells.cell import Cell
from harness.cells.store import CellStore, drawn_with
from harness.errors import IncompatibleError
from harness.method import Method
from harness.records import Status
from harness.sampling.artifact_content import CONTENT_DIGITS
from harness.training.artifact_files import META
from harness.training.artifacts import ArtifactCache, artifact_keys, base_identity, read_given


class Training(NamedTuple):
    """A method of a cell that trains: its artifact's key and folder, and its meta data, None if it is missing."""

    method: Method
    key: str
    folder: Path
    meta: Mapping[str, Any] | None


def trainings(cell: Cell) -> list[Training]:
    """Return what the cell's methods train, left to right, as it is stored now."""
    methods = cell.methods
    if not any(method.trains for method in methods):
        return []
    given = read_given(cell.spec.given, methods, cell.spec.model) if cell.spec.given else None
    base = base_identity(cell.spec.model, cell.shared.weights(cell.spec.model))
    keys = artifact_keys(methods, base, given)
    cache = ArtifactCache(Path(cell.spec.artifacts))
    stored = []
    for method, key in zip(methods, keys, strict=True):
        if given and key == given.key:
            stored.append(Training(method, key, given.folder, given.load().meta))
        elif key:
            stored.append(Training(method, key, cache.folder(method, key), cache.meta(method, key)))
    return stored


def bound(cell: Cell) -> Cell:
    """Return the cell with the content of its artifacts, which its workers are to draw with.

    Raises IncompatibleError if its images were generated with another training than the one that is there now.
    """
    of_cell = trainings(cell)
    content = _content(of_cell)
    problem = _problem(cell, of_cell, content)
    if problem:
        raise problem
    return replace(cell, spec=replace(cell.spec, artifact=content))


def training_problem(cell: Cell) -> str | None:
    """Say, before anything is drawn, that a cell's images are of another training than the one that is there now."""
    of_cell = trainings(cell)
    problem = _problem(cell, of_cell, _content(of_cell))
    return str(problem) if problem else None


def _content(of_cell: Sequence[Training]) -> str | None:
    """Return what names the content of the artifacts; None if there are none, or one is still to be trained."""
    metas = [one.meta for one in of_cell]
    return "+".join(str(meta["sha256"])[:CONTENT_DIGITS] for meta in metas if meta) or None if all(metas) else None


def _problem(cell: Cell, of_cell: Sequence[Training], content: str | None) -> IncompatibleError | None:
    if content is None:
        return None
    store = cell.store
    rows = [row for row in store.images().values() if row.status is not Status.ERROR]
    drawn = drawn_with(rows)
    if drawn == content or not rows:
        return None
    if drawn is None and not _is_younger(of_cell, store):
        return None  # rows of a former version, and the artifact was there before them
    said = f"with artifact {drawn}" if drawn else "before the current artifact was stored"
    folders = " and ".join(str(one.folder) for one in of_cell)
    return IncompatibleError(
        f"{cell.label}: its {len(rows)} images were generated {said}; {folders} has another training, {content}, "
        "but a cell's images need a single one.",
        f"Restore the earlier artifact, or delete {cell.folder} to generate all of them again.",
    )


def _is_younger(of_cell: Sequence[Training], store: CellStore) -> bool:
    """Return whether an artifact was stored after the first images, which do not say what they were generated with."""
    stored = max((one.folder / META).stat().st_mtime for one in of_cell)
    return stored > store.begun()
