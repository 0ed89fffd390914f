"""Checks of single values: one in its range comes back, another is refused in one line that says what is needed.

Settings of classes are not checked here but declared: see `harness.setting_types`.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

from harness.errors import InvalidValueError, unknown_name

LABEL_LENGTH = 100
_LABEL = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._+-]{{0,{LABEL_LENGTH - 1}}}", re.ASCII)


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` if it is an integer in [low, high]. Raises InvalidValueError naming the setting and the range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        span = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise InvalidValueError(f"{name}={value}: expected an integer {span}.")
    return value


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a float if it is a finite number in [low, high]."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high:
        raise InvalidValueError(f"{name}={value}: expected a number from {low:g} to {high:g}.")
    return float(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise unknown_name(name, str(value), choices)
    return str(value)


def check_label(name: str, value: Any) -> str:
    """Return `value` if it is a name that can be a folder: of letters, digits and . _ + -, the first no mark."""
    shown = value if isinstance(value, str) and len(value) <= LABEL_LENGTH else f"{str(value)[:LABEL_LENGTH]}..."
    if problem := label_problem(value):
        raise InvalidValueError(f"{name}={shown}: {problem}")
    return str(value)


def label_problem(value: Any) -> str | None:
    """Say what a name that can be a folder is made of, where this is none."""
    if isinstance(value, str) and _LABEL.fullmatch(value):
        return None
    return ("a name of letters, digits and . _ + - is needed, with a letter or digit first and at most "
            f"{LABEL_LENGTH} characters.")


def check_file(name: str, value: Any) -> str | None:
    """Return `value` if it is null or the text that names a file."""
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise InvalidValueError(f"{name}={value!r}: expected a path, or null.")
    if value is not None:
        user_path(name, value, served=("hf", "pkg"))
    return value


_BEGINS_ELSEWHERE = re.compile(r"(~[\w.-]*|\$\w+|\$\{\w+\})(?=/|$)")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def with_variables(text: str) -> str:
    """Return a path whose first part is ~, ~user or a variable such as $HOME with that part written out."""
    match = _BEGINS_ELSEWHERE.match(text)
    if match is None:
        return text
    return os.path.expandvars(os.path.expanduser(match[0])) + text[match.end():]


def user_path(setting: str, text: str, served: tuple[str, ...] = ()) -> Path:
    """Return the path that a person gave, `~` and `$HOME` written out. Raises InvalidValueError for what can be none.

    An address (s3://...) is none, but for the schemes that are `served`: no folder `s3:` is made of one.
    """
    if problem := path_problem(text, served):
        raise InvalidValueError(f"{setting}={text[:60]}{'...' if len(text) > 60 else ''}: {problem}")
    return Path(with_variables(text)).expanduser()


def file_problem(text: str) -> str | None:
    """Say why a text can be no path, nor an address in the hub's cache or a package; None where it can."""
    return path_problem(text, served=("hf", "pkg"))


def path_problem(text: str, served: tuple[str, ...] = ()) -> str | None:
    """Say why a text can be no path; None where it can."""
    if (address := _ADDRESS.match(text)) and address[1] not in served:
        return (f"a path on this machine is needed, and this is an address ({address[1]}://). Mount it, or copy it, "
                "and give that folder.")
    try:
        longest = max((len(os.fsencode(part)) for part in Path(with_variables(text)).expanduser().parts), default=0)
    except (RuntimeError, ValueError):
        return "this is not a path."
    if "\0" in text:
        return "this is not a path: it contains a null character."
    return "this is not a path: a name in it is too long." if longest > 255 or len(text) > 4000 else None


def for_each(name: str, value: Any, count: int, what: str) -> tuple[Any, ...]:
    """Return one value for each of `count` things: the items of a list, or the one value that stands for all."""
    if not isinstance(value, tuple):
        return (value,) * count
    if len(value) != count:
        raise InvalidValueError(f"{name} has {len(value)} values for {count} {what}.")
    return value
