"""Cells on a command line, and texts that a command writes to files or, for `-`, to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.checks import user_path
from harness.cli.arguments import Given
from harness.cli.quoting import unquoted
from harness.errors import InvalidValueError
from harness.lib.atomic import write_atomic

CELL_WORDS = ("model", "method", "bench", "seed", "limit", "repeats")
PLACEHOLDER = "cell#{}"  # stands for a cell's words while the command line is sorted


def without_spaces(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words with a placeholder for each that describes a cell in several words, and what they stand for.

    `"method=none bench=i2p"` is one word of the shell: a cell, not a setting.
    """
    described: dict[str, str] = {}
    plain = []
    for word in words:
        parts = word.split()
        if len(parts) > 1 and not word.startswith("-") and all("=" in part for part in parts):
            name = PLACEHOLDER.format(len(described))
            described[name] = word
            word = name
        plain.append(word)
    return plain, described


def placeholders(words: Sequence[str], settings: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Do the same for the cells that a setting names: from="method=none bench=i2p",81d04e."""
    described: dict[str, str] = {}
    plain = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.lstrip("-") in settings and any(" " in one.strip() for one in value.split(",")):
            names = []
            for one in value.split(","):
                names.append(PLACEHOLDER.format(len(described)))
                described[names[-1]] = one.strip()
            word = f"{key}={','.join(names)}"
        plain.append(word)
    return plain, described


def named_cells(given: Given, described: Mapping[str, str], results: Path) -> list[Path]:
    """Return the folders of the cells that a command was given, in order. Raises HarnessError."""
    from harness.comparisons.finding import find_cells

    texts = [described.get(thing, thing) for thing in given.things]
    words: dict[str, list[str]] = {name: given.names(name) for name in CELL_WORDS if name in given.settings}
    for word in given.passed_on:  # method.<setting>=value
        key, _, value = word.lstrip("+~").partition("=")
        words.setdefault(key, []).append(unquoted(value))
    return find_cells(texts, words, results)


def is_true(given: Given, name: str) -> bool:
    """Read a switch; false where it is not given."""
    text = given.text(name, "false")
    if text not in ("true", "false"):
        raise InvalidValueError(f"{name}={text}: true or false is needed.")
    return text == "true"


def write_texts(given: Given, texts: Mapping[str, Callable[[], str]]) -> bool:
    """Write each text to the file that its setting names; return whether the terminal got one instead of a table."""
    shown = [name for name in texts if given.text(name) == "-"]
    if len(shown) > 1:
        raise InvalidValueError(f"{' and '.join(f'{name}=-' for name in shown)}: only one fits the terminal.",
                                f"Write the other to a file: {shown[0]}=FILE.")
    for name, text in texts.items():
        path = given.text(name)
        if path and path != "-":
            write_atomic(user_path(name, path), text().encode("utf-8", "backslashreplace"))
        elif path:
            sys.stdout.write(text())
    return bool(shown)
