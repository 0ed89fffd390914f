"""The reference set that an evaluator's features of a cell are compared with: what it is, what is missing of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cells.cell import Cell, canonical_hash
from harness.errors import InvalidValueError
from harness.evaluators.identity import EvaluatorKey
from harness.lib.reading import UnreadableFileError
from harness.lib.targets import build

if TYPE_CHECKING:
    from harness.metrics.sets import ReferenceSet

log = logging.getLogger(__name__)

Config = Mapping[str, Any]

FOLDER = "folder"  # settings of a reference set: where its images are, and the ids of the prompts that they belong to
IDS = "ids"


def reference_of(cell: Cell, evaluator: Config) -> Config | None:
    """Return the whole config of the reference set; None for a bench or an evaluator without one.

    An evaluator's `reference` says in which folder the images are. Raises InvalidValueError where no folder is read.
    """
    if build(evaluator).kind != "features":
        return None
    folder, reference = evaluator.get("reference"), cell.reference
    if folder is not None and (reference is None or FOLDER not in reference):
        raise InvalidValueError(f"evaluator.{evaluator['name']}.reference={folder}: the bench {cell.bench.name} has no "
                                "reference set of images in a folder.")
    if reference is None:
        return None
    ids = cell.prompts.ids if cell.prompts else None
    own = {FOLDER: folder and str(Path(folder).expanduser().resolve()), IDS: ids}
    return {**reference, **{key: value for key, value in own.items() if key in reference and value}}


def reference_file(cell: Cell, evaluator: Config) -> Path | None:
    """Return where the features of the reference set are kept, named by the hash of what makes them."""
    reference = reference_of(cell, evaluator)
    if reference is None:
        return None
    made, fingerprint = build(reference), EvaluatorKey.of(build(evaluator)).fingerprint
    identity = dict(made.identity()) if hasattr(made, "identity") else reference
    return Path(cell.spec.artifacts) / "references" / f"{canonical_hash([fingerprint, identity])[:16]}.npz"


def reference_features(file: Path, name: str) -> ReferenceSet | None:
    """Return the features that are kept of a reference set; None where there are none, or none that can be read.

    A file that cannot be read goes, so that it is made again.
    """
    from harness.metrics.sets import ReferenceSet  # what a plan does not need

    try:
        return ReferenceSet.load(name, file) if os.path.lexists(file) else None
    except UnreadableFileError as error:
        log.warning("%s The features of the reference set are made again.", error)
        if file.is_file():
            file.unlink(missing_ok=True)
        return None


def reference_problem(cell: Cell, evaluator: Config) -> str | None:
    """Say in one line why the cell cannot be compared with its reference set; None where it can, or where none is."""
    file, reference = reference_file(cell, evaluator), reference_of(cell, evaluator)
    if file is None or reference is None or file.is_file():
        return None
    made = build(reference)
    return made.missing() if hasattr(made, "missing") else None


def reference_name(cell: Cell, evaluator: Config) -> str:
    """Name the reference set for a metric's note: as it calls itself, else as the bench is called."""
    reference = reference_of(cell, evaluator)
    return str(getattr(build(reference), "label", cell.bench.name)) if reference else cell.bench.name
