"""What methods share to train and solve."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Find what was here when this room was one file, about training prompts."""
    from importlib import import_module

    module = None if name.startswith("_") else import_module(f"{__name__}.prompts")
    if module is None or not hasattr(module, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
