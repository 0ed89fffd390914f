"""A note in a cell's folder while an evaluator runs: one left by a dead process shows what it was running."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.lib.lease import is_dead, this_process
from harness.lib.reading import UnreadableFileError, read_json

NOTE = ".at-work-"


@contextmanager
def at_work(folder: Path, evaluator: str) -> Iterator[bool]:
    """Leave a note while entered; yield whether a process died at this evaluator here. `evaluator` is its fingerprint.

    A note that cannot be written is none: nothing depends on it but the next command's caution.
    """
    prefix = f"{NOTE}{hashlib.sha256(evaluator.encode()).hexdigest()[:12]}-"
    left = [note for note in folder.glob(f"{prefix}*") if _is_left(note)]
    mine = folder / f"{prefix}{uuid.uuid4().hex[:8]}"
    with suppress(OSError):
        mine.write_text(json.dumps(this_process()))
    try:
        yield bool(left)
    finally:
        for note in (mine, *left):
            with suppress(OSError):
                note.unlink(missing_ok=True)


def _is_left(note: Path) -> bool:
    try:
        owner = read_json(note)
    except UnreadableFileError:
        return False
    return owner is not None and is_dead(owner)
