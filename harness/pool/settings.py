"""The pool's settings, and which pool they mean."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from harness.declared import Declared
from harness.errors import MissingResourceError
from harness.lib.machine import device_problem, process_threads, visible_cores
from harness.setting_types import Must, Text

MAX_DEFAULT_WORKERS = 8
Many = Annotated[int, Ge(1), Le(4096)]
Seconds = Annotated[float, Ge(0.01), Le(1e6)]


@dataclass(frozen=True)
class PoolSettings(Declared):
    """None means: as the machine has it. Seconds and megabytes where the name says so."""

    settings_of: ClassVar[str] = "pool"

    name: Literal["auto", "inline", "ray"] = "auto"
    workers: Many | None = None
    threads: Many | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    address: Annotated[Text, Must("a host:port", "addresses", bool)] | None = None
    start_timeout_seconds: Seconds = 180.0
    hang_seconds: Seconds = 900.0
    beat_seconds: Seconds = 5.0
    attempts: Annotated[int, Ge(1), Le(100)] = 3
    object_store_mb: Annotated[int, Ge(80)] = 100
    log_to_driver: bool = False
    judges: Annotated[int, Ge(0), Le(4096)] | None = None
    judge_threads: Many = 1
    judge_gpus: Annotated[float, Ge(0), Le(0.9)] = 0.25

    @property
    def cluster_address(self) -> str | None:
        """Return the cluster to join: `pool.address`, else RAY_ADDRESS."""
        return self.address or os.environ.get("RAY_ADDRESS") or None

    @property
    def kind(self) -> str:
        """Return "inline" or "ray": auto means ray for several devices or workers, or for a cluster."""
        if self.name != "auto":
            return self.name
        several = (self.workers or 1) > 1 or (self.workers is None and self.uses_gpus and visible_gpus() > 1)
        return "ray" if several or self.cluster_address else "inline"

    @property
    def uses_gpus(self) -> bool:
        return self.device == "cuda" or (self.device == "auto" and visible_gpus() > 0)

    @property
    def device_problem(self) -> str | None:
        """Say why the device that is asked for cannot be had here; None where it may be, or is another machine's."""
        problem = None if self.cluster_address else device_problem(self.device)
        return problem and f"pool.device={self.device}: {problem}."

    def check_device(self) -> None:
        """Raise MissingResourceError where the device that is asked for cannot be had here."""
        if self.device_problem:
            raise MissingResourceError(self.device_problem, "Set pool.device=auto, or pool.address=<a Ray cluster>.")

    @property
    def uses_cpu(self) -> bool:
        """Return whether the work is known to be done on this machine's CPU: a cluster may have GPUs."""
        apple = self.device == "mps" or (self.device == "auto" and sys.platform == "darwin")
        return not (self.uses_gpus or self.cluster_address or apple)

    @property
    def ray_workers(self) -> int:
        """Return the workers asked for: else one per visible GPU, else one per core, up to 8."""
        if self.workers is not None:
            return self.workers
        gpus = visible_gpus() if self.uses_gpus else 0
        return gpus or max(1, min(visible_cores() // (self.threads or 1), MAX_DEFAULT_WORKERS))

    def judge_workers(self, on_gpu: bool) -> int:
        """Return the workers that only judge: as asked for, else one where a GPU makes the images, none on a CPU."""
        return int(on_gpu) if self.judges is None else self.judges

    @property
    def worker_threads(self) -> int:
        """Return the compute threads of one worker."""
        if self.threads is not None:
            return self.threads
        return max(1, visible_cores() // self.ray_workers) if self.kind == "ray" else process_threads()


def visible_gpus() -> int:
    """Return the number of NVIDIA GPUs that this process may use, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0
