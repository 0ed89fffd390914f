"""What methods share to train and solve."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Find what was here when this room was one file, about training prompts and a frozen denoiser."""
    from importlib import import_module

    for part in ("prompts", "frozen") if not name.startswith("_") else ():
        module = import_module(f"{__name__}.{part}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
