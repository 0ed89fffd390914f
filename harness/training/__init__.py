"""What methods share to train and solve."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Find what was here when this room was one file, about training prompts."""
    from importlib import import_module

    found = None if name.startswith("_") else import_module(f"{__name__}.prompts")
    if found is None or not hasattr(found, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(found, name)
