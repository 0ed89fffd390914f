"""Relative paths in a config, made absolute where the command runs: a worker may have another working directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Settings that name files or folders; others do where their text looks like one.
PLACES = frozenset({"activations", "calibration", "checkpoint", "data", "feedback", "file", "files", "folder", "images",
                    "path", "paths", "prompts", "prompts_file", "source", "weights"})  # fmt: skip
OWN = "datasets/"  # the harness's own files, wherever it is installed


def absolute(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with every relative path that is there made absolute; other values are left alone."""
    return {key: _absolute(str(key), value) for key, value in config.items()}


def _absolute(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return absolute(value)
    if isinstance(value, list | tuple):
        return [_absolute(key, one) for one in value]
    return str(Path(value).expanduser().absolute()) if isinstance(value, str) and _is_place(key, value) else value


def _is_place(key: str, value: str) -> bool:
    if not value or "\n" in value or "://" in value or value.startswith(OWN) or Path(value).is_absolute():
        return False
    looks_like = "/" in value or (Path(value).suffix and " " not in value)
    try:
        return bool(key in PLACES or looks_like) and Path(value).expanduser().exists()
    except OSError:  # too long for a name, or in a folder that may not be read
        return False
