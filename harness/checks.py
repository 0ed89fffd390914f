"""Checks of settings: a value in its range comes back, another is refused in one line that says what is needed."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import InvalidValueError, unknown_name

LABEL_LENGTH = 100
_LABEL = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._+-]{{0,{LABEL_LENGTH - 1}}}", re.ASCII)
Record = TypeVar("Record")


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` if it is an integer in [low, high]. Raises InvalidValueError naming the setting and the range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        span = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise InvalidValueError(f"{name}={value}: an integer {span} is needed.")
    return value


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a float if it is a finite number in [low, high]."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high:
        raise InvalidValueError(f"{name}={value}: a number from {low:g} to {high:g} is needed.")
    return float(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise unknown_name(name, str(value), choices)
    return str(value)


def check_label(name: str, value: Any) -> str:
    """Return `value` if it is a name that can be a folder: of letters, digits and . _ + -, the first no mark."""
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        shown = value if isinstance(value, str) and len(value) <= LABEL_LENGTH else f"{str(value)[:LABEL_LENGTH]}..."
        raise InvalidValueError(f"{name}={shown}: a name of letters, digits and . _ + - is needed, with a letter or "
                                f"digit first and at most {LABEL_LENGTH} characters.")
    return value


def check_file(name: str, value: Any) -> str | None:
    """Return `value` if it is null or the text that names a file."""
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise InvalidValueError(f"{name}={value!r}: a path, or null, is needed.")
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
    shown = text[:60] + ("..." if len(text) > 60 else "")
    if (address := _ADDRESS.match(text)) and address[1] not in served:
        raise InvalidValueError(f"{setting}={shown}: a path on this machine is needed, and this is an address "
                                f"({address[1]}://).", "Mount it, or copy it, and give that folder.")
    try:
        path = Path(with_variables(text)).expanduser()
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    except (RuntimeError, ValueError):
        raise InvalidValueError(f"{setting}={shown}: this is no path.") from None
    if "\0" in text or longest > 255 or len(text) > 4000:
        raise InvalidValueError(f"{setting}={shown}: this is no path: "
                                f"{'it holds a null character' if chr(0) in text else 'a name in it is too long'}.")
    return path


def check_list(name: str, value: Any) -> Sequence[Any]:
    """Return `value` if it is a list."""
    if not isinstance(value, (list, tuple)):
        raise InvalidValueError(f"{name}={value!r}: a list is needed.")
    return value


def check_mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a mapping."""
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{name}={value!r}: settings are needed.")
    return value


def check_record(name: str, value: Any, kind: type[Record]) -> Record:
    """Return a record of the dataclass `kind` from a mapping of its fields, or `value` itself if it is one."""
    if isinstance(value, kind):
        return value
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{name}={value!r}: settings are needed: {', '.join(known)}.")
    for key in value:
        if key not in known:
            raise unknown_name(f"setting of {name}", str(key), known)
    own = fields(kind)  # type: ignore[arg-type]
    needed = [f.name for f in own if f.name not in value and f.default is MISSING and f.default_factory is MISSING]
    if needed:
        raise InvalidValueError(f"{name} needs a value for: {', '.join(needed)}.")
    return kind(**value)


def texts_of(value: Any) -> tuple[str, ...]:
    """Return a text, or a list of texts, as a tuple; an empty one for anything else, and where a text is empty."""
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
    return texts if all(isinstance(text, str) and text.strip() for text in texts) else ()
