"""Settings as they are written: Hydra's quotes, the shell's quotes, and ~ in paths."""

from __future__ import annotations

import os
import re
import shlex


def unquoted(text: str) -> str:
    """Return a value without the quotes around it that what composes settings takes away."""
    inside = text[1:-1]
    return inside if len(text) > 1 and text[0] == text[-1] in "'\"" and text[0] not in inside else text


def in_quotes(key: str, text: str) -> str:
    """Write key=text for a shell, so that the text is one value whatever it holds."""
    text = unquoted(text.strip())
    if "'" in text:
        escaped = text.replace('"', '\\"')
        return shlex.quote(f'{key}="{escaped}"')
    word = f"{key}='{text}'"
    return shlex.quote(word) if set(word) & set('"$`\\!') else f'"{word}"'


_HOME = re.compile(r"(?<=[=\[,({:])~[\w.-]*(?=[/,\])}]|$)")


def with_home(word: str) -> str:
    """Write out the home folder at the beginning of paths in key=~/..., which no shell does, nor Hydra's grammar."""
    key, equals, value = word.partition("=")
    return key + _HOME.sub(lambda match: os.path.expanduser(match[0]), equals + value) if equals else word
