"""Errors that a user can fix, each one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Escape sequences whole; then control characters but tab and newline, and marks that turn the direction of text.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
NEAREST = 5  # names of a long list that an error shows
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text without terminal escape sequences, control characters and lone surrogates."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text)).encode("utf-8", "replace").decode("utf-8")


class HarnessError(Exception):
    """An error that the user can fix: one line, no traceback, exit code 2.

    `hint` is the command or action that fixes it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(" ".join(printable(message).split()))
        self.hint = None if hint is None else printable(hint)

    def __str__(self) -> str:
        text = str(self.args[0])
        return f"{text} {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[type[HarnessError], tuple[str, str | None]]:
        return type(self), (str(self.args[0]), self.hint)


class UnknownNameError(HarnessError):
    """A name that is not in the list of valid ones."""


class InvalidValueError(HarnessError):
    """A value out of its range, or of the wrong type."""


class MissingResourceError(HarnessError):
    """Weights, a token, a file or a package that is needed but missing."""


class IncompatibleError(HarnessError):
    """Parts that cannot work together, such as a guidance method at guidance 1."""


class StorageError(HarnessError):
    """The results folder cannot be used: not writable, full, or held by another run."""


def permission_denied(error: PermissionError) -> StorageError:
    """Build the error for a file or folder that this user may not use, such as a colleague's on a cluster."""
    return StorageError(f"{error.filename or 'a file'}: permission denied.",
                        "Ask its owner for access (chmod a+r, and a+x for its folders), or use your own copy.")


def near_names(name: str, valid: Iterable[str], count: int = 3) -> list[str]:
    """Return the valid names closest to `name`, best first; all of a short list when none is close.

    One that differs in capitals only is meant alone.
    """
    names = {each.casefold(): each for each in sorted(set(valid), reverse=True)}
    if name.casefold() in names:
        return [names[name.casefold()]]
    close = difflib.get_close_matches(name.casefold(), sorted(names), n=count, cutoff=0.5)
    return [names[each] for each in close] or (sorted(set(valid)) if len(names) <= 8 else [])


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown `name` of a `kind` (method, model, setting, ...)."""
    names = sorted(set(valid))
    close = near_names(name, names)
    if close:
        return UnknownNameError(f"unknown {kind} '{name}'.", f"Did you mean: {', '.join(close)}?")
    nearest = difflib.get_close_matches(name, names, n=NEAREST, cutoff=0)
    return UnknownNameError(f"unknown {kind} '{name}'.", f"Of {len(names)}, the nearest are {', '.join(nearest)}.")


class StoppedError(Exception):
    """Ends a training that the user asked to stop."""
