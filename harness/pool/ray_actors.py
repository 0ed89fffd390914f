"""Workers behind Ray: the actor that one runs in, and what actors ask of the cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from harness.errors import HarnessError
from harness.lib.streams import prepare_streams
from harness.pool import cluster
from harness.pool.member import Member
from harness.pool.settings import PoolSettings
from harness.pool.tasks import Task, TaskResult
from harness.pool.worker import Worker

if TYPE_CHECKING:
    from harness.pool.toolbox import Toolbox


class Actor:
    """A `Worker` behind Ray: `run` in one thread, the rest in others."""

    def __init__(
        self, name: str, toolbox: Toolbox, device: str, threads: int, environment: Mapping[str, str],
        hang_seconds: float, folder: str,
    ) -> None:  # fmt: skip
        prepare_streams()
        os.environ.update(environment)
        if os.path.isdir(folder):
            os.chdir(folder)  # what a setting names relative to the command's folder
        self._worker = Worker(name, toolbox, device, threads, hang_seconds=hang_seconds)

    @ray.method(concurrency_group="control")
    def is_placed(self) -> bool:
        return True

    @ray.method(concurrency_group="control")
    def hello(self, results: str | None) -> dict[str, Any]:
        """Return who this is and the path of a probe file; under "problem" why it cannot work here."""
        greeting = {**self._worker.hello(), "node": ray.get_runtime_context().get_node_id(), "probe": None}
        try:
            return {**greeting, "probe": self._worker.probe(results) if results else None}
        except HarnessError as error:
            return {**greeting, "problem": error}

    @ray.method(concurrency_group="control")
    def beat(self) -> tuple[int, int]:
        return self._worker.beat(), self._worker.signs()

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        self._worker.stop()

    def run(self, task: Task) -> TaskResult:
        return self._worker.run(task)


_RemoteActor: Any = ray.remote(concurrency_groups={"control": 2})(Actor)  # type: ignore[call-overload]


class Actors:
    """Makes the actors of a pool; the cluster places them."""

    def __init__(self, settings: PoolSettings, results: Path | None, toolbox: Toolbox) -> None:
        self._settings = settings
        self._results = results
        self._toolbox = toolbox

    def slots(self) -> int:
        """Return how many workers the cluster has room for in all, or the number asked for."""
        if self._settings.workers is not None:
            return self._settings.workers
        if self._settings.cluster_address is None:
            return self._settings.ray_workers
        has = ray.cluster_resources()
        share = has.get("GPU", 0) if self.on_gpu() else has.get("CPU", 0) // self._settings.worker_threads
        return max(int(share), 1)

    def on_gpu(self) -> bool:
        device = self._settings.device
        return device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)

    def request(self, is_judge: bool = False) -> dict[str, float]:
        """Return what an actor asks of the cluster."""
        settings = self._settings
        share = settings.judge_gpus if self.on_gpu() and settings.judge_workers(True) else 0.0
        if is_judge:
            return {"num_cpus": float(settings.judge_threads), "num_gpus": share}
        return {"num_cpus": float(settings.worker_threads), "num_gpus": 1.0 - share if self.on_gpu() else 0.0}

    def hire(self, name: str, is_judge: bool, refused: Collection[str]) -> Member:
        """Ask for an actor on any node but the refused ones."""
        settings, now, request = self._settings, time.monotonic(), self.request(is_judge)
        threads = settings.judge_threads if is_judge else settings.worker_threads
        environment = {**cluster.travelling(), "OMP_NUM_THREADS": str(threads)}
        device = "cuda" if request["num_gpus"] else ("cpu" if settings.device in ("auto", "cuda") else settings.device)
        options: dict[str, Any] = {**request, "max_restarts": 0, "max_task_retries": 0}
        if refused:
            options["label_selector"] = {"ray.io/node-id": f"!in({', '.join(refused)})"}
        arguments = (name, self._toolbox, device, threads, environment, settings.hang_seconds, os.getcwd())
        actor = _RemoteActor.options(**options).remote(*arguments)
        refs = {"placed": actor.is_placed.remote(), "hello": actor.hello.remote(self._results and str(self._results))}
        return Member(name, actor, now, refs, is_judge=is_judge)
