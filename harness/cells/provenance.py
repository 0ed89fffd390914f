"""Who made a cell, when, with what."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from harness.lib.paths import PACKAGE
from harness.records import ImageRow, Status

DISTRIBUTION = "responsible-t2i-harness"
PACKAGES = (DISTRIBUTION, "torch", "torchvision", "diffusers", "transformers", "onnxruntime", "numpy", "pillow",
            "safetensors")


def required_packages() -> list[str]:
    """Return what the installed harness requires, as its metadata says, evaluators' packages among them."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that can change a number; `missing` where not installed."""
    versions = {}
    for name in dict.fromkeys((*PACKAGES, *required_packages())):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    return versions


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


def made_on(rows: Iterable[ImageRow]) -> list[dict[str, Any]]:
    """Return on which host and hardware, and with which versions, images were made, and how many each."""
    counts = Counter((row.host, row.hardware, row.versions) for row in rows if row.status is Status.OK)
    return [{"host": host, "hardware": hardware, "versions": versions, "images": count}
            for (host, hardware, versions), count in sorted(counts.items(), key=lambda one: str(one[0]))]


def mixed(origins: Sequence[Mapping[str, Any]]) -> str | None:
    """Say which kinds of hardware or versions the images of one cell come from, None if it is one of each."""
    told = []
    for name in ("hardware", "versions"):
        counts: Counter[str] = Counter()
        for origin in origins:
            if origin[name] is not None:
                counts[origin[name]] += origin["images"]
        if len(counts) > 1:
            told.append(f"several {name}: " + "; ".join(f"{kind} ({count} images)" for kind, count in counts.items()))
    return f"made on {', and on '.join(told)}. The same seed may give different pixels there." if told else None


def joined(this_run: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the provenance of a run that made some images of a cell, with that of the runs that made others."""
    if not before:
        return dict(this_run)
    former = {key: value for key, value in before.items() if key not in ("earlier", "made_on")}
    return {**this_run, "earlier": [*before.get("earlier", []), former]}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
