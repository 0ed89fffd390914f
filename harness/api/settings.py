"""Configs by name with settings changed in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.cli.compose import config_names
from harness.errors import unknown_name


def check_names(group: str, names: Sequence[str]) -> None:
    """Raise UnknownNameError, with the nearest ones, for a name that a config group does not have."""
    known = config_names(group) if names else []
    if unknown := next((name for name in names if name not in known), None):
        raise unknown_name(group, unknown, known)


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with settings changed, nested ones too."""
    result = dict(config)
    for key, value in changes.items():
        inner = result.get(key)
        nested = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(inner, value) if nested and inner is not None else value
    return result
