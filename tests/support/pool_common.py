"""What tests of pools share: what a pool is made by, and waiting for what workers do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.pool import Pool
from tests.support.fakes import DEADLINE, wait_for

MakePool = Callable[..., Pool]


def at_gate(notes: Path, *steps: Callable[[], object]) -> threading.Thread:
    """Take the steps on another thread as soon as a worker stands at the gate."""

    def watch() -> None:
        wait_for(notes / "reached")
        for step in steps:
            step()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def event_after(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> Callable[[], object]:
    """Return a function that waits until `method` has returned once."""
    event, original = threading.Event(), getattr(owner, method)

    def wrapped(*args: object) -> object:
        try:
            return original(*args)
        finally:
            event.set()

    monkeypatch.setattr(owner, method, wrapped)
    return lambda: event.wait(DEADLINE)
