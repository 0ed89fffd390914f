"""The hub's cache on this machine: where it is, what it has, and whether the hub may be contacted."""

from __future__ import annotations

import os
from pathlib import Path


def hub_cache() -> Path:
    """Return the folder where huggingface_hub keeps its downloads."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(explicit).expanduser() if explicit else _hub_home() / "hub"


def _hub_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME") or Path(cache, "huggingface")).expanduser()


def cached_snapshot(hub_id: str, revision: str) -> Path | None:
    """Return the folder of a hub model's revision (a commit, branch or tag) in the local cache, if it is there."""
    repo = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    reference = repo / "refs" / revision
    try:
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
        snapshot = repo / "snapshots" / commit
        return snapshot if snapshot.is_dir() else None
    except (OSError, ValueError):  # damaged, or no name of a folder
        return None


def is_offline() -> bool:
    """Return whether the environment forbids going to the hub."""
    return any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in
               ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def has_token() -> bool:
    """Return whether a hub token is set or stored."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    return Path(os.environ.get("HF_TOKEN_PATH") or _hub_home() / "token").expanduser().is_file()
