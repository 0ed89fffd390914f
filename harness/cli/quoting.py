"""Settings whose text needs quotes: of their own, for what composes them, and of the shell around those."""

from __future__ import annotations

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
