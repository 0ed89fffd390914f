"""One worker of a Ray pool as the driver sees it: plain bookkeeping, no Ray."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.pool.queue import Holds, Job
from harness.pool.tasks import PrepareTask

FIRST = 4  # times the patience that a worker has before it first shows that it gets on: it loads the model


@dataclass(eq=False)
class Member:
    """One actor. The refs are of calls not answered yet."""

    name: str
    actor: Any
    created: float
    refs: dict[str, Any] = field(default_factory=dict)  # "placed", "hello", "run", "beat"
    placed: bool = False
    greeting: dict[str, Any] | None = None
    holding: Holds | None = None
    job: Job | None = None
    beats: int = 0
    signs: int = 0
    reported: int = 0  # images of this job that progress was told of
    gets_on: bool = False  # whether it showed so since it has this job
    last_progress: float = 0.0
    last_answer: float = 0.0
    next_beat: float = 0.0
    killed_for: str | None = None
    late: bool = False
    is_judge: bool = False

    @property
    def is_idle(self) -> bool:
        return self.greeting is not None and self.job is None

    def start(self, job: Job, now: float, beat_seconds: float) -> None:
        """Take note of a job that is handed out."""
        self.job, self.holding = job, job.holds or self.holding
        self.reported, self.gets_on = 0, False
        self.last_progress = self.last_answer = now
        self.next_beat = now + beat_seconds

    def heard(self, images: int, signs: int, now: float) -> int:
        """Take note of a beat; return the images that are new."""
        made, self.beats = images - self.beats, max(images, self.beats)
        if signs > self.signs and self.job is not None:
            self.signs, self.last_progress, self.gets_on = signs, now, True
        self.last_answer = now
        return max(made, 0) if self.job is not None else 0

    def hangs(self, patience: float, now: float) -> str | None:
        """Return why the worker is to be given up, None if it gets on.

        Steps of training are told, but not what comes before them, such as images for it.
        """
        if self.job is None or self.killed_for is not None:
            return None
        is_slow = not self.gets_on or isinstance(self.job.task, PrepareTask)
        waited = now - self.last_progress
        return f"no progress for {waited:.0f} s" if waited > patience * (FIRST if is_slow else 1) else None

    def is_silent(self, seconds: float, now: float) -> str | None:
        """Return why a worker that is to stop is given up: it does not even answer."""
        waited = now - self.last_answer
        return f"no answer for {waited:.0f} s" if self.job is not None and waited > seconds else None

    def kill_process(self) -> None:
        """Kill its process where it is on this machine: one that is stopped does not do what Ray asks of it."""
        greeting = self.greeting or {}
        if greeting.get("host") == socket.gethostname() and isinstance(greeting.get("pid"), int):
            with suppress(OSError):
                if b"ray::" in open(f"/proc/{greeting['pid']}/cmdline", "rb").read():  # noqa: SIM115
                    os.kill(greeting["pid"], signal.SIGKILL)
