"""The reference set that an evaluator's features of a cell are compared with: what it is, what is missing of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InvalidValueError
from harness.lib.hashing import canonical_hash
from harness.lib.reading import UnreadableFileError
from harness.lib.targets import build

if TYPE_CHECKING:
    from harness.metrics.sets import ReferenceSet

log = logging.getLogger(__name__)

Config = Mapping[str, Any]

FOLDER = "folder"  # settings of a reference set: where its images are, and the ids of the prompts that they belong to
IDS = "ids"


def reference_config(reference: Config | None, evaluator: Config, ids: str | None, bench: str) -> Config | None:
    """Return the whole config of a bench's reference set for one evaluator; None if the bench has none.

    An evaluator's `reference` says in which folder the images are. Raises InvalidValueError if no folder is read.
    `ids` are those of the bench's prompts, None if they are not here.
    """
    folder = evaluator.get("reference")
    if folder is not None and (reference is None or FOLDER not in reference):
        raise InvalidValueError(f"evaluator.{evaluator['name']}.reference={folder}: the bench {bench} has no "
                                "reference set of images in a folder.")
    if reference is None:
        return None
    settings = {FOLDER: folder and str(Path(folder).expanduser().resolve()), IDS: ids}
    return {**reference, **{key: value for key, value in settings.items() if key in reference and value}}


@dataclass(frozen=True)
class Reference:
    """A reference set: its whole config, what was built of it, and the file that keeps an evaluator's features of it.

    `name` is for a metric's note: what it calls itself, else what the bench is called.
    """

    config: Config
    made: Any
    file: Path
    name: str

    @classmethod
    def of(cls, config: Config, fingerprint: str, bench: str, artifacts: str) -> Reference:
        """Build it. The file is named by the hash of what makes the features; `fingerprint` is the evaluator's."""
        made = build(config)
        identity = dict(made.identity()) if hasattr(made, "identity") else config
        file = Path(artifacts) / "references" / f"{canonical_hash([fingerprint, identity])[:16]}.npz"
        return cls(config, made, file, str(getattr(made, "label", bench)))

    def problem(self) -> str | None:
        """Say in one line why nothing can be compared with it; None if its features are here or can be made."""
        if self.file.is_file():
            return None
        return self.made.missing() if hasattr(self.made, "missing") else None

    def features(self) -> ReferenceSet | None:
        """Return the features that are kept of it; None if there are none, or none that can be read.

        A file that cannot be read goes, so that it is made again.
        """
        from harness.metrics.sets import ReferenceSet  # what a plan does not need

        try:
            return ReferenceSet.load(self.name, self.file) if os.path.lexists(self.file) else None
        except UnreadableFileError as error:
            log.warning("%s The features of the reference set are extracted again.", error)
            if self.file.is_file():
                self.file.unlink(missing_ok=True)
            return None
