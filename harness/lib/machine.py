"""What this process runs on. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import resource
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.lib.paths import PACKAGE
from harness.lib.version import __version__

# Workers of one run must agree on these: they change pixels or what is stored.
CHECKED = ("torch", "diffusers", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Return the versions that workers and driver must share."""
    known = {"harness": __version__, "code": code_hash(), "python": _python()}
    for name in CHECKED:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = "missing"
    return known


def versions_text() -> str:
    """Return the versions as one line, for every image row."""
    return ", ".join(f"{name} {value}" for name, value in versions().items() if name != "code")


@cache
def code_hash() -> str:
    """Return a hash of the package's own Python files: a checkout may differ from another of the same version."""
    folders = [PACKAGE, *(PACKAGE.parent / name for name in ("methods",) if (PACKAGE.parent / name).is_dir())]
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:12]


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def visible_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_threads() -> int:
    """Return the threads that this process computes with: OMP_NUM_THREADS where it is set, else one for each core."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else visible_cores()


def hardware_name(device: str) -> str:
    """Return the name of the device: the GPU's, else the CPU's."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return str(torch.cuda.get_device_name(device))
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1) if match else platform.processor() or platform.machine()


_DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd")


def device_problem(device: str) -> str | None:
    """Say why this machine has no device of a kind (cuda, mps), without loading torch; None where it may have one."""
    if device == "cuda" and os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    if device == "cuda" and not any(Path(name).exists() for name in _DRIVERS):
        return "this machine has no GPU driver"
    if device == "mps" and sys.platform != "darwin":
        return "this machine is not a Mac"
    return None


def peak_memory_mb() -> float:
    """Return the largest resident size of this process so far."""
    try:
        # ru_maxrss would include what the parent held when it forked.
        match = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return int(match.group(1)) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
