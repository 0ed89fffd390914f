"""The pool's settings, and which pool they mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.checks import check_choice, check_integer, check_number
from harness.errors import InvalidValueError, MissingResourceError, unknown_name
from harness.lib.machine import device_problem, process_threads, visible_cores

MAX_DEFAULT_WORKERS = 8


@dataclass(frozen=True)
class PoolSettings:
    """None means: as the machine has it. Seconds and megabytes where the name says so."""

    name: str = "auto"
    workers: int | None = None
    threads: int | None = None
    device: str = "auto"
    address: str | None = None
    start_timeout_seconds: float = 180.0
    hang_seconds: float = 900.0
    beat_seconds: float = 5.0
    attempts: int = 3
    object_store_mb: int = 100
    log_to_driver: bool = False
    judges: int | None = None
    judge_threads: int = 1
    judge_gpus: float = 0.25

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PoolSettings:
        """Check names and ranges. Raises HarnessError."""
        names = [field.name for field in fields(cls)]
        for key in config:
            if key not in names:
                raise unknown_name("pool setting", str(key), names)
        settings = cls(**config)
        if not isinstance(settings.log_to_driver, bool):
            raise InvalidValueError(f"pool.log_to_driver={settings.log_to_driver}: expected true or false.")
        check_choice("pool", settings.name, ("auto", "inline", "ray"))
        check_choice("pool.device", settings.device, ("auto", "cpu", "cuda", "mps"))
        if settings.address is not None and not isinstance(settings.address, str):
            raise InvalidValueError(f"pool.address={settings.address}: expected host:port.")
        for name in ("workers", "threads"):
            if getattr(settings, name) is not None:
                check_integer(f"pool.{name}", getattr(settings, name), 1, 4096)
        if settings.judges is not None:
            check_integer("pool.judges", settings.judges, 0, 4096)
        check_integer("pool.judge_threads", settings.judge_threads, 1, 4096)
        check_number("pool.judge_gpus", settings.judge_gpus, 0, 0.9)
        check_integer("pool.attempts", settings.attempts, 1, 100)
        check_integer("pool.object_store_mb", settings.object_store_mb, 80)
        for name in ("start_timeout_seconds", "hang_seconds", "beat_seconds"):
            check_number(f"pool.{name}", getattr(settings, name), 0.01, 1e6)
        return settings

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
            raise MissingResourceError(self.device_problem, "Say pool.device=auto, or pool.address=<a Ray cluster>.")

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
