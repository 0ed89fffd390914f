"""What evaluators and methods may need to download: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository: those that match one of `patterns`, and the first of `one_of` that there is."""

    repo: str
    revision: str | None
    patterns: tuple[str, ...]
    one_of: tuple[str, ...] = ()
    kind: str = "model"
    single: bool = False  # of several files that match, none is guessed


@dataclass(frozen=True)
class UrlFile:
    """A file at an address. `sha256` is the whole hash, or its first digits where only these are published."""

    url: str
    path: Path
    sha256: str | None = None


Download = HubFiles | UrlFile


def names_in(folder: str, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return patterns of files in a folder of a repository, or in its root."""
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    return tuple(f"{prefix}{pattern}" for pattern in patterns)
