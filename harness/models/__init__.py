"""A pipeline in memory: which files a config means, whether they are complete, loading them, custom parts."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Find what was here when this room was one file."""
    from importlib import import_module

    for part in ("loaded", "loading", "weights") if not name.startswith("_") else ():
        module = import_module(f"{__name__}.{part}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
