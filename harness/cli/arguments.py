"""The words of a command, split into flags and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import HarnessError


@dataclass(frozen=True)
class Arguments:
    overrides: tuple[str, ...]
    config_dirs: tuple[str, ...]
    multirun: bool
    show_config: bool


def parse_arguments(words: Sequence[str]) -> Arguments:
    """Split the command line into flags and overrides. Raises HarnessError for an unknown flag."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:  # type: ignore[override]
            raise HarnessError(f"{message}.", "See python -m harness --help.")

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--config-dir", action="append", default=[])
    parser.add_argument("--cfg", action="store_true")
    parser.add_argument("overrides", nargs="*")
    found = parser.parse_intermixed_args(list(words))
    return Arguments(tuple(found.overrides), tuple(found.config_dir), found.multirun, found.cfg)
