"""Ctrl-C that lets running batches finish."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from harness.pool.contract import Interrupted

NOTICE = b"\nstopping when the running batches are done; once more to stop at once\n"


class StopSignals:
    """While entered, the first SIGINT or SIGTERM calls `on_stop`; the second leaves at once with Interrupted.

    Outside of the main thread signals cannot be caught, and nothing is.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._former: dict[signal.Signals, Any] = {}
        self.name: str | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        if isinstance(error, KeyboardInterrupt) and self.name is not None:
            raise Interrupted("stopped at once; unfinished shards will be generated again.") from error

    def refuse_to_go_on(self) -> None:
        """Raise Interrupted when a signal came."""
        if self.name is not None:
            raise Interrupted(f"stopped by {self.name}; running tasks finished and were stored.")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            raise KeyboardInterrupt  # which no `except Exception` on the way takes for a failure of its own
        self.name = signal.Signals(number).name
        os.write(2, NOTICE)  # a logger or a console may be in the middle of a line
        self._on_stop()
