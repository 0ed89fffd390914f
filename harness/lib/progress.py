"""One live line per cell on a terminal; plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from harness.errors import printable
from harness.lib.formatting import duration
from harness.lib.streams import say

PLAIN_INTERVAL = 10.0  # seconds between plain lines of one cell


class _Rate(ProgressColumn):
    """Items per second of the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.2f}/s" if speed else "  -/s", style="cyan")


@dataclass
class _Line:
    total: int
    done: int = 0
    started: float = 0.0
    last_print: float = 0.0


class Meter:
    """How many of a cell's images there are, and how fast they come, all workers together."""

    def __init__(self, total: int, missing: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = total - missing
        self._before = self.done
        self._clock = clock
        self._started = clock()

    def advance(self, count: int) -> None:
        self.done += count

    @property
    def rate(self) -> float:
        """Return images per second since the start."""
        return (self.done - self._before) / max(self._clock() - self._started, 1e-9)


class Board:
    """Shows how far each cell is. `advance` may be called from one thread only."""

    def __init__(
        self, title: str, console: Console, clock: Callable[[], float] = time.monotonic, says_start: bool = False
    ) -> None:
        """`says_start` prints a plain line before the first advance: for what takes minutes in one piece."""
        self.title = title
        self.says_start = says_start
        self.console = console
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._ids: dict[str, TaskID] = {}
        self._last_advance = clock()
        self._progress = (
            Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
                console=console,
                speed_estimate_period=60.0,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def add(self, name: str, total: int) -> None:
        """Show a line, or let the one of this name have so much more to do."""
        if name in self._lines:
            self._lines[name].total += total
            if self._progress:
                self._progress.update(self._ids[name], total=self._lines[name].total)
            return
        now = self._clock()
        self._lines[name] = _Line(total, started=now, last_print=now)
        if self._progress:
            self._ids[name] = self._progress.add_task(printable(f"{self.title} {name}"), total=total)
        elif self.says_start:
            self._print(f"{name}: 0/{total}")

    def advance(self, name: str, count: int) -> None:
        if not count:
            return
        line = self._lines[name]
        if not line.done:
            line.started = self._last_advance  # a cell starts where the one before it left off
        line.done += count
        if self._progress:
            self._progress.advance(self._ids[name], count)
        else:
            self._plain(name, line)
        self._last_advance = self._clock()

    def _plain(self, name: str, line: _Line) -> None:
        now = self._clock()
        if line.done < line.total and now - line.last_print < PLAIN_INTERVAL:
            return
        line.last_print = now
        seconds = max(now - line.started, 1e-9)
        rate = line.done / seconds
        if line.done < line.total:
            ends = f"{duration((line.total - line.done) / rate)} left"
        else:
            ends = f"took {duration(seconds)}"
        self._print(f"{name}: {line.done}/{line.total}, " + (f"{rate:.2f}/s, " if rate >= 0.1 else "") + ends)

    def _print(self, text: str) -> None:
        say(self.console, f"{self.title} {text}")
