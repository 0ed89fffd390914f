"""Commands as they can be typed here: with the Python of this environment, whether or not it is activated."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PYTHON = "python"


def typed(command: Sequence[str]) -> str:
    """Write a command for a shell. A leading `python` becomes the path of this one where the shell's is another."""
    program, *words = command
    return shlex.join([python() if program == PYTHON else program, *words])


def python() -> str:
    """Return how the shell that started this process names its Python: `python`, `.venv/bin/python`, a full path."""
    found = shutil.which(PYTHON)
    if found and _folder(found) == _folder(sys.executable):
        return PYTHON
    try:
        return str(Path(sys.executable).relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the working folder is gone
        return sys.executable or PYTHON


def _folder(program: str) -> str:
    """Return the environment's folder of programs; the program itself may link to one outside of it."""
    return os.path.realpath(os.path.dirname(program))
