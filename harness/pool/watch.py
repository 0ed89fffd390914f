"""Notices that the driver's Ray has died, before Ray silently ends the driver. Imports no Ray."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from harness.lib.ending import leave

LOOK_SECONDS = 2.0
MISSES = 3  # in a row
GRACE_SECONDS = 15.0  # that the driver has to end by itself, where it is not stuck in Ray

Place = tuple[str, str, int]


def answers(host: str, port: int, timeout: float = 5.0) -> bool:
    """Return whether a connection is taken."""
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError:
        return False
    return True


class Watch:
    """A thread that tries the places that a driver cannot do without; `lost` says which of them is gone.

    A driver that stays `armed` for some seconds after is stuck in Ray: it is ended with the words of `ending`.
    """

    def __init__(self, places: Sequence[Place], answers: Callable[[str, int], bool] = answers,
                 look_seconds: float = LOOK_SECONDS, grace_seconds: float = GRACE_SECONDS) -> None:  # fmt: skip
        self.lost: str | None = None
        self._places = places
        self._answers = answers
        self._look_seconds, self._grace_seconds = look_seconds, grace_seconds
        self._closed = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._look, name="ray-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Be at work with Ray."""
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _look(self) -> None:
        misses = dict.fromkeys(self._places, 0)
        while not self._closed.wait(self._look_seconds):
            for place in self._places:
                name, host, port = place
                misses[place] = 0 if self._answers(host, port) else misses[place] + 1
                if misses[place] >= MISSES:
                    self.lost = f"Ray has died: {name} at {host}:{port} does not answer any more."
                    if not self._idle.wait(self._grace_seconds):
                        leave(self.lost)
                    return
