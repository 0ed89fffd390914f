"""How a command ends early: Ctrl-C and SIGTERM at any point, and the message then."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from harness.lib.lease import give_back_all
from harness.lib.shell import typed

INTERRUPTED = 130  # the exit code after SIGINT and after SIGTERM
LOST = 2

_command: list[str] = []
_stopping = False


def resume_words() -> str:
    """Return how to continue, with the command where it is known."""
    words = "Finished work is kept. To resume, run the same command again"
    return f"{words}:\n  {typed(_command)}" if _command else f"{words}."


@contextmanager
def stoppable(command: Sequence[str]) -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: raise KeyboardInterrupt, once; the second signal ends the process at once.

    `command` is what continues again. Outside of the main thread signals cannot be caught, and nothing is.
    """
    global _stopping
    former_command, former = list(_command), dict[signal.Signals, Any]()
    _command[:], _stopping = command, False
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            former[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _command[:] = former_command


def leave(reason: str, code: int = LOST) -> None:
    """End this process now, from any thread: say why and how to continue, and hold no folder any longer."""
    give_back_all()
    text = f"\n{reason} {resume_words()}\n"
    os.write(2, text.encode(errors="backslashreplace"))  # a console may be in the middle of a line
    os._exit(code)


def end_hard(code: int) -> None:
    """End this process without what other packages do at exit: they may wait for what is gone."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopping
    if _stopping:
        leave("Stopped at once.", INTERRUPTED)
    _stopping = True
    raise KeyboardInterrupt
