"""Who made a cell, when, with what."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.paths import PACKAGE

PACKAGES = (
    "responsible-t2i-harness",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "ray",
    "hydra-core",
    "omegaconf",
    "wandb",
    "nudenet",
    "onnxruntime",
    "open_clip_torch",
    "clean-fid",
    "lpips",
    "numpy",
    "pillow",
    "pyarrow",
    "safetensors",
)


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that can change a number; `missing` where not installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def git_state() -> dict[str, Any]:
    """Return revision and dirty flag of the checkout that the package runs from; None values outside a checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"revision": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def provenance(
    command: Sequence[str],
    workers: Sequence[Mapping[str, Any]],
    weights: str,
    prompt_set_hash: str | None,
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what provenance.json holds. `workers` are their hello messages, `model` where its weights are from."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "user": _user(),
        "host": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": package_versions(),
        "git": git_state(),
        "hardware": [dict(worker) for worker in workers],
        "weights_fingerprint": weights,
        "model": dict(model or {}),
        "prompt_set_hash": prompt_set_hash,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
