"""Where the configs, cards and prompt files are: inside the installed package, or beside it in a clone."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def _data_folder(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def conf_dir() -> Path:
    """Return the folder of Hydra configs."""
    return _data_folder("conf")


def published_dir() -> Path:
    """Return the folder of numbers that papers report, each with its source."""
    inside = PACKAGE / "published"
    return inside if inside.is_dir() else PACKAGE.parent / "results" / "published"


def datasets_dir() -> Path:
    """Return the folder of benchmark cards and of the prompt files that are ours."""
    return _data_folder("datasets")
