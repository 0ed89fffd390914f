"""What would run, shown instead: --cfg prints configs, --info what they are composed from, -sc completes in a shell."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf

from harness.cli.arguments import Arguments, parse_arguments
from harness.cli.commands import COMMANDS
from harness.cli.compose import Composer, composer_of
from harness.cli.evaluator_configs import EVALUATOR
from harness.cli.hydra_configs import PRIMARY, has, hydra_with, one_line, unresolved
from harness.cli.hydra_keys import search_path
from harness.cli.near_settings import keys_of
from harness.cli.sweeps import refuse_sweep
from harness.errors import HarnessError, unknown_name

INSTALL = 'eval "$(harness -sc install=bash)"'


def config_text(arguments: Arguments) -> str:
    """Return the configs of all jobs as YAML documents: of the job, of Hydra, or both, or the part of a package."""
    with composer_of(arguments.overrides, arguments.config_dirs, arguments.config_name) as composer:
        shown = [composer.shown(overrides) for overrides in _jobs(composer, arguments)]
    return "---\n".join(_document(arguments, config, hydra) for config, hydra in shown)


def _jobs(composer: Composer, arguments: Arguments) -> Sequence[Sequence[Override]]:
    """Return the overrides of each job; without -m those of the words alone, as Hydra shows a config."""
    if arguments.multirun:
        return composer.each(multirun=True)
    refuse_sweep(composer.overrides)
    return [composer.overrides]


def _document(arguments: Arguments, config: DictConfig, hydra: DictConfig) -> str:
    settings = {key: value for key, value in hydra.items_ex(resolve=False) if key not in ("help", "hydra_help")}
    both = {"job": {}, "hydra": {"hydra": settings}, "all": {"hydra": settings}}[arguments.show or "job"]
    whole: Any = OmegaConf.create(both)
    if arguments.show != "hydra":
        OmegaConf.set_struct(config, False)
        whole = OmegaConf.merge(config, whole) if both else config
    if not arguments.package or arguments.package == "_global_":
        return _yaml(whole, arguments.resolve)
    if not has(whole, arguments.package):
        raise unknown_name("package", arguments.package, keys_of(unresolved(whole)))
    with one_line():
        part = OmegaConf.select(whole, arguments.package)
    text = _yaml(part, arguments.resolve) if isinstance(part, DictConfig | ListConfig) else f"{part}\n"
    return f"# @package {arguments.package}\n{text}"


def _yaml(config: DictConfig | ListConfig, resolve: bool) -> str:
    with one_line():
        return OmegaConf.to_yaml(config, resolve=resolve)


def show_info(arguments: Arguments) -> None:
    """Print what Hydra tells of the search path, the defaults list, its plug-ins and the composed config."""
    with composer_of(arguments.overrides, arguments.config_dirs, arguments.config_name) as composer:
        for overrides in _jobs(composer, arguments):
            composer.shown(overrides)  # says in one line what Hydra says in many
        words = [word for word in arguments.overrides if not word.lstrip("+~").startswith((f"{EVALUATOR}.",))]
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        with one_line(), _logging_as_before():
            hydra.show_info(arguments.info or "all", arguments.config_name or PRIMARY, words)


@contextlib.contextmanager
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def complete(arguments: Arguments) -> None:
    """Print the shell code that completes `harness`, or, when the shell asks, the completions of a line."""
    words = dict(word.partition("=")[::2] for word in arguments.overrides)
    if "query" not in words and sys.argv[0].endswith(".py"):
        raise HarnessError("shell completion works for the command harness, not for python -m harness.", INSTALL)
    line = os.environ.get("COMP_LINE", "") if "query" in words else ""
    given = _parsed(line)
    if line and _is_first_word(line):
        begun = "" if line.endswith(" ") else line.split()[-1]
        sys.stdout.write("".join(f"{name}\n" for name in COMMANDS if name.startswith(begun)))
    places = [*arguments.config_dirs, *given.config_dirs, *search_path(given.overrides)]
    with hydra_with(places), one_line(), _comp_line(_without_command(line)):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.shell_completion(given.config_name or arguments.config_name or PRIMARY, list(arguments.overrides))


def _parsed(line: str) -> Arguments:
    try:
        return parse_arguments(line.split()[1:])
    except HarnessError:  # a line that is being written
        return Arguments(())


def _is_first_word(line: str) -> bool:
    return len(line.split()) + line.endswith(" ") == 2


def _without_command(line: str) -> str:
    program, *words = line.split(" ")
    return " ".join([program, *words[1:]]) if len(words) > 1 and words[0] in COMMANDS else line


@contextlib.contextmanager
def _comp_line(line: str) -> Iterator[None]:
    former = os.environ.get("COMP_LINE")
    if former is not None:
        os.environ["COMP_LINE"] = line
    try:
        yield
    finally:
        if former is not None:
            os.environ["COMP_LINE"] = former

