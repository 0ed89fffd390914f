"""The two files of an artifact, read as data: its tensors match meta.json and are finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.lib.hashing import file_hash
from harness.lib.reading import UnreadableFileError, read_bytes, read_json
from harness.lib.tensor_headers import FileFault, header_of, read_header, shown
from harness.lib.tensor_values import not_finite

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Config = Mapping[str, Any]

TENSORS, META = "artifact.safetensors", "meta.json"
MAX_TENSORS = 2**36
_SAID: set[tuple[Path, str]] = set()


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return an artifact's tensors, on the CPU. Raises HarnessError, in one line, where its file is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    header_of(folder / TENSORS, f"the artifact {folder / TENSORS}")
    data = read_bytes(folder / TENSORS, MAX_TENSORS)
    try:
        tensors = load(data or b"")
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise UnreadableFileError(folder / TENSORS, str(error)) from None
    bad = next((name for name, value in tensors.items() if not bool(value.isfinite().all())), None)
    if bad is not None:
        raise UnreadableFileError(folder / TENSORS, f"{shown(bad)} has non-finite values")
    return tensors


def read_meta(folder: Path) -> dict[str, Any] | None:
    """Return meta.json where the tensors beside it are those that it names, else None; why is said once."""
    meta, problem = looked_at(folder)
    if problem:
        say(folder, problem)
    return meta


def say(folder: Path, problem: str) -> None:
    """Say once why an artifact does not count."""
    if (folder, problem) not in _SAID:
        _SAID.add((folder, problem))
        log.warning("%s: %s. The artifact is ignored.", folder, problem)


def looked_at(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return an artifact's meta data where it is complete, else what is wrong; nothing is where there is none."""
    try:
        meta = read_json(folder / META)
        if meta is None:
            return None, ""
        problem = _problem(meta, folder)
    except UnreadableFileError as error:
        return None, f"{Path(error.path).name} cannot be read: {error.reason}"
    except OSError as error:  # of the tensors
        return None, f"{TENSORS}: {error.strerror}"
    except FileFault as fault:
        return None, f"{TENSORS} {fault.reason}"
    return (None, problem) if problem else (meta, "")


def _problem(meta: Config, folder: Path) -> str:
    """Say why meta data does not tell of the tensors beside it, or of a training as the harness reads it."""
    if not (isinstance(meta.get("training", {}), dict) and _is_time(meta.get("seconds"))):
        return f"{META} describes no training"
    if file_hash(folder / TENSORS) != meta.get("sha256"):
        return f"{TENSORS} does not match the hash in {META}"
    if "tensors" in meta and meta["tensors"] != layout(folder):
        return f"{TENSORS} has other tensors than {META} lists"
    bad = not_finite(folder / TENSORS)
    return f"{TENSORS}: {shown(bad)} has non-finite values" if bad else ""


def layout(folder: Path) -> dict[str, list[Any]]:
    """Return type and shape of each tensor by name."""
    tensors = read_header(folder / TENSORS).tensors
    return {name: [entry.dtype, *entry.shape] for name, entry in sorted(tensors.items())}


def tells_all(meta: Config) -> bool:
    """Return whether meta data tells what lists, exports and other runs ask of an artifact."""
    recipe, base = meta.get("recipe"), meta.get("base")
    if not isinstance(recipe, dict) or not isinstance(base, dict):
        return False
    texts = [meta.get("method"), meta.get("key"), recipe.get("kind"), base.get("weights")]
    lists = (meta.get("upstream"), meta.get("upstream_classes", []))
    return "training" in meta and all(isinstance(text, str) for text in texts) and all(
        isinstance(one, list) and all(isinstance(name, str) for name in one) for one in lists)


def _is_time(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
