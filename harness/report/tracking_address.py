"""Which W&B run a cell has: named by the cell and by its results folder, so that repeating a command updates it."""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from typing import Any

from harness.errors import StorageError
from harness.lib.atomic import write_atomic
from harness.lib.hashing import text_hash
from harness.lib.reading import UnreadableFileError, read_json

FILE = "wandb.json"
DIGITS = 8

log = logging.getLogger(__name__)


def address_of(results: Path) -> str:
    """Return what names a results folder on W&B; two folders never share it, and a folder that moves keeps it.

    It is kept in the folder, with the place where it was given. Where that place still has it, this folder is a copy
    and gets one of its own. A folder that cannot be written to is named by its path.
    """
    place = results.resolve()
    known = kept(place)
    name = known.get("id")
    if isinstance(name, str) and name.isalnum():
        if known.get("place") == str(place):
            return name
        former = Path(str(known.get("place")))
        if kept(former).get("id") != name:
            return _keep(place, name)
    return _keep(place, uuid.uuid4().hex[:DIGITS])


def kept(place: Path) -> dict[str, Any]:
    """Return what a results folder keeps of its mirror on W&B; nothing where that cannot be read."""
    try:
        return read_json(place / FILE) or {}
    except (UnreadableFileError, OSError):
        return {}


def keep(results: Path, **more: Any) -> None:
    """Note something more of the mirror in a results folder. Raises OSError and StorageError."""
    place = results.resolve()
    write_atomic(place / FILE, json.dumps({**kept(place), **more}, indent=1).encode())


def was_uploaded(results: Path, folder: Path, run: str) -> bool:
    """Return whether `wandb sync` took an offline run in `folder` already; another upload would repeat its curves."""
    known = kept(results.resolve()).get("uploaded")
    noted = [str(one) for one in known] if isinstance(known, list) else []
    if run not in noted and any(folder.glob(f"offline-run-*-{run}/*.synced")):
        noted.append(run)
        keep(results, uploaded=noted)
    return run in noted


def _keep(place: Path, name: str) -> str:
    try:
        former = {} if kept(place).get("id") != name else kept(place)
        write_atomic(place / FILE, json.dumps({**former, "id": name, "place": str(place)}, indent=1).encode())
    except (OSError, StorageError) as error:
        log.warning("W&B runs are named by the path of %s, where nothing can be written: %s", place, error)
        return text_hash(str(place))[:DIGITS]
    return name
