"""The grammar of every command: things and name=value settings, with flags among them, in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.cli.quoting import unquoted
from harness.errors import HarnessError, unknown_name

CONFIGS, INFO = ("job", "hydra", "all"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# By the name of what it sets in Arguments: how a flag is written, as Hydra's commands have it.
FLAGS = {
    "config_dirs": ("--config-dir", "-cd"), "config_name": ("--config-name", "-cn"), "multirun": ("--multirun", "-m"),
    "show": ("--cfg", "-c"), "package": ("--package", "-p"), "resolve": ("--resolve",), "info": ("--info", "-i"),
    "completion": ("--shell-completion", "-sc"), "run": ("--run", "-r"),
}  # fmt: skip
OF_COMMANDS = ("config_dirs",)  # flags that every command takes
_SWITCHES = ("multirun", "resolve", "completion", "run")
_BARE = {"show": CONFIGS, "info": INFO}  # the first, or last, is meant where the flag has no value of these


@dataclass(frozen=True)
class Arguments:
    """The words of a command: `overrides` are its things and settings."""

    overrides: tuple[str, ...]
    config_dirs: tuple[str, ...] = ()
    config_name: str | None = None
    multirun: bool = False
    show: str | None = None
    package: str | None = None
    resolve: bool = False
    info: str | None = None
    completion: bool = False
    run: bool = False


@dataclass(frozen=True)
class Given:
    """What a command that is no run was given: every value of a setting as it is written, in order."""

    things: tuple[str, ...]
    settings: dict[str, list[str]]
    passed_on: tuple[str, ...]  # words for what composes configs
    config_dirs: tuple[str, ...]

    def text(self, name: str, default: str | None = None) -> str | None:
        """Return a setting's last value; the default where it has none or is empty."""
        return (self.texts(name) or [""])[-1] or default

    def texts(self, name: str) -> list[str]:
        """Return every value of a setting, without its quotes."""
        return [unquoted(value) for value in self.settings.get(name, ())]

    def names(self, name: str) -> list[str]:
        """Return the values of a setting, each of which may be a list: a,b or [a,b]."""
        lists = [value.removeprefix("[").removesuffix("]") for value in self.texts(name)]
        return [one.strip() for value in lists for one in value.split(",") if one.strip()]


def parse_arguments(words: Sequence[str], command: str = "", flags: Iterable[str] = FLAGS,
                    settings: Iterable[str] = (), switches: Iterable[str] = ()) -> Arguments:  # fmt: skip
    """Split the command line. Raises HarnessError for an unknown flag, with the nearest.

    A command's own `settings` may be written as flags, too (--out DIR for out=DIR); `switches` are those that are true.
    """
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:  # type: ignore[override]
            raise HarnessError(f"{message}.", f"See {called(command)} --help.")

    parser = Parser(add_help=False, allow_abbrev=False)
    for name in flags:
        if name in _SWITCHES:
            parser.add_argument(*FLAGS[name], dest=name, action="store_true")
        elif name == "config_dirs":
            parser.add_argument(*FLAGS[name], dest=name, action="append", default=[])
        else:
            parser.add_argument(*FLAGS[name], dest=name, choices=_BARE.get(name))
    for name in settings:
        wanted = {"action": "append_const", "const": f"{name}=true"} if name in switches else {
            "action": "append", "type": lambda value, name=name: f"{name}={value}"}  # fmt: skip
        parser.add_argument(f"--{name}", dest="as_flags", **wanted)
    parser.add_argument("overrides", nargs="*")
    known, unknown = parser.parse_known_intermixed_args(list(_with_defaults(words)))
    if unknown:
        written = ("--help", *(option for action in parser._actions for option in action.option_strings))
        raise unknown_name(f"flag of {called(command)}", unknown[0].split("=")[0], written)
    options = vars(known)
    overrides = (*options.pop("overrides"), *(options.pop("as_flags", None) or ()))
    dirs = tuple(options.pop("config_dirs", ()))
    return Arguments(tuple(overrides), dirs, **options)


def _with_defaults(words: Sequence[str]) -> Iterable[str]:
    """Yield the words; --cfg and --info that stand alone with the value that they mean."""
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        for name, choices in _BARE.items():
            if word in FLAGS[name] and following not in choices:
                word = f"{word}={choices[0]}"
        yield word


def read_given(arguments: Arguments, settings: Sequence[str], passed_on: Sequence[str] = (),
               things: str | None = None) -> Given:  # fmt: skip
    """Sort a command's words. Raises HarnessError naming the nearest setting.

    `passed_on`: settings of the composed config, by name or, with a dot at the end, by their beginning. `things`: what
    words without `=` are; None if there are none.
    """
    bare, given, others = [], dict[str, list[str]](), []
    for word in arguments.overrides:
        key, equals, value = word.partition("=")
        plain = key.lstrip("+~")
        if (not equals and plain == key) or (things and _is_path(key, word)):
            if things is None:
                raise HarnessError(f"'{word}' is not a setting.", f"Write name=value: {', '.join(settings)}.")
            bare.append(word)
        elif any(plain == one or (one.endswith(".") and plain.startswith(one)) for one in passed_on):
            others.append(word)
        elif key in settings:
            given.setdefault(key, []).append(value)
        else:
            shown = [f"{one}<setting>" if one.endswith(".") else one for one in passed_on]
            raise unknown_name("setting", key, [*settings, *shown])
    return Given(tuple(bare), given, tuple(others), arguments.config_dirs)


def _is_path(key: str, word: str) -> bool:
    """Return whether a word with `=` in it is a file's name, such as runs/epoch=3.ckpt."""
    return "/" in key or os.path.exists(word)


def called(command: str = "") -> str:
    """Return how a command is called."""
    return f"python -m harness {command}".strip()
