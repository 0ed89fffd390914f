"""Workers as Ray actors: one per GPU, or some of a few CPU threads each, here or on a cluster.

Long-lived actors and our own `ray.wait` loop. Ray restarts and retries nothing: a death is seen here, its task is
queued again, and a new actor takes the place. Images go to storage; only rows travel.
"""

from __future__ import annotations

import atexit
import logging
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from harness.errors import HarnessError, MissingResourceError
from harness.lib.ending import end_hard
from harness.lib.machine import versions
from harness.pool import cluster
from harness.pool.contract import Interrupted, Lost, Pool, Progress, Then
from harness.pool.member import Member
from harness.pool.outcome import failure
from harness.pool.queue import Job, TaskQueue, is_judging, n_images
from harness.pool.ray_actors import Actors
from harness.pool.settings import PoolSettings
from harness.pool.signals import StopSignals
from harness.pool.tasks import Task, TaskFailure, TaskResult
from harness.pool.watch import Watch
from harness.sampling.batches import BrokenDevice, describe

if TYPE_CHECKING:
    from harness.pool.toolbox import Toolbox

log = logging.getLogger(__name__)

TURN_SECONDS = 1.0  # the longest wait before signals, capacity and hung workers are looked at
SCALE_SECONDS = 5.0
DRAIN_SECONDS = 30.0  # that a worker may leave a beat unanswered while the pool stops
MAX_DEATHS = 5  # of one worker in a row, without a task finished in between


class RayPool(Pool):
    """Starts a Ray of its own, or joins the cluster at `address`."""

    def __init__(self, settings: PoolSettings, results: Path | None, toolbox: Toolbox) -> None:
        self._settings = settings
        self._actors = Actors(settings, results, toolbox)
        self._members: dict[str, Member] = {}
        self._deaths: dict[str, int] = {}
        self._last_error = ""
        self._batch_seconds: deque[float] = deque(maxlen=50)
        self._next_scaling = 0.0
        self._capacity = 0
        self._started_ray = False
        self._watch: Watch | None = None
        self._first_nodes: set[str] = set()
        self._refused: dict[str, HarnessError] = {}  # by node
        self._met: dict[tuple[str, str], Mapping[str, Any]] = {}  # by name and host: those that were ever ready
        self._on_progress: Progress | None = None

    @property
    def size(self) -> int:
        return self._capacity or self._settings.ray_workers

    def workers(self) -> list[Mapping[str, Any]]:
        return list(self._met.values())

    def run(
        self, tasks: Iterable[Task], on_progress: Progress | None = None, then: Then | None = None
    ) -> Iterator[TaskResult | TaskFailure]:
        queue = TaskQueue(tasks, self._settings.attempts)
        self._on_progress = on_progress
        self._connect()
        assert self._watch is not None
        with self._watch.armed(), StopSignals(lambda: None) as signals:
            try:
                while (queue or self._busy()) and signals.name is None:
                    self._staff(queue)
                    self._assign(queue)
                    for outcome in self._turn(queue):
                        queue.add(then(outcome) if then else ())
                        yield outcome
                    self._look_after()
                if signals.name is not None:
                    yield from self._drain(queue)
            finally:
                for member in self._busy():
                    self._dismiss(member)
            signals.refuse_to_go_on()

    def close(self) -> None:
        for member in list(self._members.values()):
            self._dismiss(member)
        if self._watch is not None:
            self._watch.close()
        if self._started_ray:
            cluster.end(is_lost=self._is_lost)
            self._started_ray = False

    @property
    def _is_lost(self) -> bool:
        return self._watch is not None and self._watch.lost is not None

    def _check_lost(self) -> None:
        """Raise Lost when Ray itself has died. What it does at exit is left out: it waits for what is gone."""
        if self._watch is not None and self._watch.lost is not None:
            atexit.register(end_hard, Lost.exit_code)
            raise Lost(self._watch.lost)

    def _connect(self) -> None:
        if not ray.is_initialized():
            self._start()
        if self._watch is None:
            self._watch, self._first_nodes = Watch(cluster.places()), cluster.alive_nodes()

    def _start(self) -> None:
        settings = self._settings
        try:
            if settings.cluster_address is not None:
                cluster.join(settings.cluster_address, settings.log_to_driver)
            else:
                judges = settings.judge_workers(settings.uses_gpus)
                cpus = settings.ray_workers * settings.worker_threads + judges * settings.judge_threads
                cluster.start_local(cpus, settings.object_store_mb, settings.log_to_driver)
        except KeyboardInterrupt as error:
            raise Interrupted("stopped before any worker was started.") from error
        self._started_ray = True

    def _busy(self) -> list[Member]:
        return [member for member in self._members.values() if member.job is not None]

    def _staff(self, queue: TaskQueue) -> None:
        """Make actors up to the capacity, and no more than there are tasks."""
        now = time.monotonic()
        if now >= self._next_scaling:
            self._capacity, self._next_scaling = self._actors.slots(), now + SCALE_SECONDS
        wanted = min(self._capacity, len(queue) + len(self._busy()))
        able = self._able([f"worker-{index}" for index in range(self._capacity)])
        if not able:
            raise HarnessError(f"every worker died {MAX_DEATHS} times in a row. The last one: {self._last_error}")
        self._hire_up_to(wanted, able, is_judge=False)
        judges = self._settings.judge_workers(self._actors.on_gpu())
        names = self._able([f"judge-{index}" for index in range(judges)])
        self._hire_up_to(min(judges, queue.n_judging + len(self._busy())), names, is_judge=True)

    def _able(self, names: list[str]) -> list[str]:
        """Return the names whose workers did not die too often, the healthiest first."""
        able = [name for name in names if self._deaths.get(name, 0) < MAX_DEATHS]
        return sorted(able, key=lambda name: self._deaths.get(name, 0))

    def _hire_up_to(self, wanted: int, names: list[str], is_judge: bool) -> None:
        there = sum(member.is_judge is is_judge for member in self._members.values())
        for name in [name for name in names if name not in self._members][: max(0, wanted - there)]:
            self._members[name] = self._actors.hire(name, is_judge, self._refused)

    def _assign(self, queue: TaskQueue) -> None:
        for member in [one for one in self._members.values() if one.is_idle]:
            peers = [one for one in self._members.values() if one.is_judge is member.is_judge]
            others = {one.name: one.holding for one in peers if one is not member}
            job = queue.take(member.name, member.holding, others, judging_only=member.is_judge)
            if job is None:
                continue
            member.start(job, time.monotonic(), self._settings.beat_seconds)
            member.refs["run"] = member.actor.run.remote(job.task)

    def _turn(self, queue: TaskQueue) -> Iterator[TaskResult | TaskFailure]:
        """Wait for the next answers of the workers and act on them. Raises Lost."""
        self._check_lost()
        for member in self._busy():
            if "beat" not in member.refs and time.monotonic() >= member.next_beat:
                member.refs["beat"] = member.actor.beat.remote()
        pending = {ref: (one, kind) for one in self._members.values() for kind, ref in one.refs.items()}
        if not pending:
            time.sleep(TURN_SECONDS / 10)
            return
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=min(TURN_SECONDS, self._settings.beat_seconds))
        for ref in ready:
            member, kind = pending[ref]
            outcome = self._answer(member, kind, member.refs.pop(kind), queue)
            if outcome is not None:
                yield outcome

    def _answer(self, member: Member, kind: str, ref: Any, queue: TaskQueue) -> TaskResult | TaskFailure | None:
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if kind == "run" and not isinstance(cause, BrokenDevice):
                return self._raised(member, queue, cause)
            return self._bury(member, queue, describe(cause))
        except RayError as error:
            return self._bury(member, queue, describe(error))
        if kind == "run":
            return self._finished(member, queue, value)
        if kind == "beat":
            self._heard(member, *value)
        elif kind == "hello":
            self._greet(member, value)
        else:
            member.placed = True
        return None

    def _finished(self, member: Member, queue: TaskQueue, result: TaskResult) -> TaskResult | None:
        job = self._released(member)
        self._deaths[member.name] = 0
        self._batch_seconds.extend(row.seconds * row.batch_size for row in result.images[:1])
        self._report(job.root, int(result.info.get("count", 0)) - member.reported)
        member.beats += int(result.info.get("count", 0)) - member.reported
        return queue.finished(job, result)

    def _raised(self, member: Member, queue: TaskQueue, error: Exception) -> TaskResult | TaskFailure | None:
        job = self._released(member)
        self._report(job.root, -member.reported)
        return queue.failed(job, member.name, failure(job.task, error, job.deaths + job.failed_writes + 1))

    def _bury(self, member: Member, queue: TaskQueue, error: str) -> TaskResult | TaskFailure | None:
        self._check_lost()
        self._last_error = member.killed_for or error
        log.warning("%s died and was replaced: %s", member.name, self._last_error)
        job = member.job
        if job is None or not is_judging(job.task):  # an evaluator's fault is not its worker's
            self._deaths[member.name] = self._deaths.get(member.name, 0) + 1
        self._dismiss(member)
        if job is None:
            return None
        self.replaced += 1
        before, images = job.learned, n_images(job.task)
        outcome = queue.died(job, member.name, self._last_error)
        self._report(job.root, images - n_images(job.task) - member.reported)
        if job.learned != before:
            self._deaths[member.name] = 0
        return outcome

    def _released(self, member: Member) -> Job:
        job, member.job = member.job, None
        if job is None:
            raise RuntimeError(f"{member.name} answered without a task")
        return job

    def _dismiss(self, member: Member) -> None:
        member.job = None
        self._members.pop(member.name, None)
        self._kill(member)

    def _kill(self, member: Member) -> None:
        if not self._is_lost:
            ray.kill(member.actor, no_restart=True)
        member.kill_process()

    def _report(self, root: str, images: int) -> None:
        if self._on_progress is not None and images:
            self._on_progress(root, images)

    def _heard(self, member: Member, images: int, signs: int) -> None:
        now = time.monotonic()
        member.next_beat = now + self._settings.beat_seconds
        made = member.heard(images, signs, now)
        if made and member.job is not None:
            member.reported += made
            self._report(member.job.root, made)

    def _greet(self, member: Member, greeting: dict[str, Any]) -> None:
        """Take a worker in. Where it cannot work on its node, continue without a node that joined late, else raise."""
        try:
            self._welcome(member, greeting)
        except HarnessError as error:
            if greeting["node"] in self._first_nodes or not self._ready():
                raise
            log.warning("node %s joined and is left out: %s", greeting["host"], error)
            self._refused[greeting["node"]] = error
            self._dismiss(member)

    def _welcome(self, member: Member, greeting: dict[str, Any]) -> None:
        """Check that the worker has our versions and our folder."""
        probe = greeting.pop("probe")
        if "problem" in greeting:
            raise greeting["problem"]
        if probe is not None:
            cluster.check_shared(Path(probe), greeting["host"])
        cluster.check_versions(greeting["host"], greeting["versions"], versions())
        member.greeting = greeting
        self._met[member.name, greeting["host"]] = greeting

    def _ready(self) -> list[Member]:
        return [member for member in self._members.values() if member.greeting is not None]

    def _look_after(self, is_draining: bool = False) -> None:
        """Kill workers that make no progress; say so when one does not start."""
        now = time.monotonic()
        for member in list(self._members.values()):
            if member.greeting is None:
                self._check_start(member, now)
                continue
            silence = min(DRAIN_SECONDS, self._settings.hang_seconds)
            reason = member.hangs(self._patience(), now) or (member.is_silent(silence, now) if is_draining else None)
            if reason is not None:
                member.killed_for = reason
                self._kill(member)

    def _patience(self) -> float:
        usual = statistics.median(self._batch_seconds) if self._batch_seconds else 0.0
        return max(self._settings.hang_seconds, 10 * usual)

    def _check_start(self, member: Member, now: float) -> None:
        if now - member.created < self._settings.start_timeout_seconds or member.late:
            return
        waited = f"{now - member.created:.0f} s"
        text = (f"a worker was placed, but was not ready after {waited}." if member.placed
                else cluster.not_placed(self._actors.request(member.is_judge), waited))  # fmt: skip
        if not self._ready():
            hint = "Free or add nodes, lower pool.workers and pool.threads, or raise pool.start_timeout_seconds."
            raise MissingResourceError(text, hint)
        log.warning("%s is not ready yet, continuing with %d: %s", member.name, len(self._ready()), text)
        member.late = True

    def _drain(self, queue: TaskQueue) -> Iterator[TaskResult | TaskFailure]:
        """Let running batches end and collect what they made; do not wait for workers that do not answer."""
        self._ask_to_stop()
        for member in self._busy():
            member.last_answer = time.monotonic()
        while self._busy():
            yield from self._turn(queue)
            self._look_after(is_draining=True)

    def _ask_to_stop(self) -> None:
        asked = [member.actor.stop.remote() for member in self._busy()]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=10)
