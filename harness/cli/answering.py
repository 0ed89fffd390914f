"""How every command answers: its work done, or one line that says why not, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from harness.errors import HarnessError
from harness.lib.ending import INTERRUPTED, stoppable
from harness.lib.shell import typed
from harness.lib.streams import prepare_streams, system_errors

COMMAND = ("python", "-m", "harness")
HELP_FLAGS = frozenset({"-h", "--help"})


def answer(command: Sequence[str], work: Callable[[], int | None], stopped: str) -> int:
    """Do the work of `command`; return its exit code, that of the error that it raised, or 130 after a signal.

    `stopped` says what is kept then and leads to the command, which is named behind it.
    """
    with stoppable(command):
        try:
            with system_errors():
                return work() or 0
        except HarnessError as error:
            sys.stderr.write(f"error: {error}\n")
            return error.exit_code
        except KeyboardInterrupt:
            sys.stderr.write(f"{stopped} {typed(command)}\n")
            return INTERRUPTED


def answer_words(name: str, words: Sequence[str] | None, help_text: str, work: Callable[[Sequence[str]], int | None],
                 stopped: str, runs_bare: bool = False) -> int:  # fmt: skip
    """Answer `python -m harness <name>` with `words` (None: the command line): help, or `work`, as `answer` does.

    A command that cannot run without words shows its help there and returns a mistake's code, unless it `runs_bare`.
    """
    prepare_streams()
    words = sys.argv[1:] if words is None else words
    asked = bool(HELP_FLAGS & set(words))
    if asked or not (words or runs_bare):
        sys.stdout.write(help_text)
        return 0 if asked else HarnessError.exit_code
    return answer([*COMMAND, name, *words], lambda: work(words), stopped)
