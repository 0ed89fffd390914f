"""How every command answers: its work done, or one line that says why not, and an exit code."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence

from harness.errors import HarnessError
from harness.lib.ending import INTERRUPTED, stoppable
from harness.lib.streams import system_errors


def answer(command: Sequence[str], work: Callable[[], None], stopped: str) -> int:
    """Do the work of `command`; return 0, the code of the error that it raised, or 130 where a signal ended it.

    `stopped` says what is kept then and leads to the command, which is named behind it.
    """
    with stoppable(command):
        try:
            with system_errors():
                work()
        except HarnessError as error:
            sys.stderr.write(f"error: {error}\n")
            return error.exit_code
        except KeyboardInterrupt:
            sys.stderr.write(f"{stopped} {shlex.join(command)}\n")
            return INTERRUPTED
    return 0
