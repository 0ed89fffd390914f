"""Terminal output: any encoding, no foreign escape sequences, and system errors in one line."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.errors import StorageError, permission_denied, printable
from harness.lib.atomic import storage_error


def prepare_streams() -> None:
    """Let stdout and stderr replace what their encoding lacks: a run must not end at a dash."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and getattr(stream, "errors", None) == "strict":
            reconfigure(errors="replace")


PLAIN_WIDTH = 140  # columns of output that goes to a file


def columns() -> int:
    """Return how wide every command writes: COLUMNS where it is set, else the terminal's width."""
    return shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns


class PlainConsole(Console):
    """A console that prints texts as they are: no markup in them is read, and no control character gets through."""

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (printable(one) if isinstance(one, str) else one for one in objects)
        super().print(*shown, **{"markup": False, "highlight": False, "soft_wrap": True, **options})


def say(console: Console, text: str) -> None:
    """Print a line as it is, whatever brackets or control characters it has; never wrapped."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def terminal() -> PlainConsole:
    """Return what every command prints with: in colours on a terminal, unless NO_COLOR is set."""
    return PlainConsole(width=columns())


def cell_text(text: object) -> Text:
    """Return a table's cell that shows a text as it is."""
    return Text(printable(str(text)))


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn what the system refuses a command into a StorageError of one line, the path named."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone: there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError("the output was closed before its end.") from None
    except PermissionError as error:
        raise permission_denied(error) from error
    except OSError as error:
        named = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        known = storage_error(error, named) if named else None
        said = f"{named}: {error.strerror}" if named else str(error)
        raise known or StorageError(f"{said or type(error).__name__}.", "Finished work is kept; fix this, then "
                                    "run the same command again.") from error
