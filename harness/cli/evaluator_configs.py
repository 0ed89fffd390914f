"""Evaluators' configs of a job: those that its bench, model or words name, the parts that they combine, their settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from harness.checks import check_label, with_variables
from harness.cli.hydra_configs import Configs, has, one_line, plain, unresolved, with_values
from harness.cli.near_settings import keys_of
from harness.errors import InvalidValueError, unknown_name

EVALUATOR = "evaluator"
_CHOICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,200}")

Config = dict[str, Any]


class EvaluatorConfigs:
    """The configs of evaluators; those that no job changes are read once."""

    def __init__(self, configs: Configs) -> None:
        self.configs = configs
        self._known: dict[str, Config] = {}

    def of_job(self, config: Config, overrides: Sequence[Override]) -> tuple[Config, ...]:
        """Return the configs of a job's evaluators, those before that a composite combines."""
        given = config["evaluators"]
        if given is None:
            lists = [names(f"{group}.evaluators", config[group].get("evaluators")) for group in ("bench", "model")]
            given = [name for part in lists for name in part]
        wanted = self._with_parts(names("evaluators", given), overrides, config)
        for name in _in_files(config):
            self.configs.check(EVALUATOR, name)
        for override in overrides:
            name = override.key_or_group.split(".")[1]
            if name not in wanted:
                raise unknown_name("evaluator of this cell", name, wanted)
        return tuple(self._one(name, overrides, config) for name in wanted)

    def _with_parts(self, listed: Sequence[str], overrides: Sequence[Override], config: Config,
                    above: tuple[str, ...] = ()) -> list[str]:
        """Return the names of evaluators, each after the parts that it combines."""
        with_parts: list[str] = []
        for name in listed:
            self.configs.check(EVALUATOR, name)
        self.configs.read(EVALUATOR, listed)
        for name in listed:
            if name in above:
                raise InvalidValueError(f"evaluator {name} is a part of itself: {' > '.join((*above, name))}.")
            parts = names(f"evaluator.{name}.parts", self._one(name, overrides, config).get("parts"))
            with_parts += self._with_parts(parts, overrides, config, (*above, name))
            with_parts.append(name)
        return list(dict.fromkeys(with_parts))

    def _one(self, name: str, overrides: Sequence[Override], config: Config) -> Config:
        """Return an evaluator's config; its interpolations may name the job's settings."""
        start = f"{EVALUATOR}.{name}."
        changes = [override for override in overrides if override.key_or_group.startswith(start)]
        in_files = _in_files(config).get(name, {})
        if not (changes or in_files) and name in self._known:
            return self._known[name]
        node = self.configs.node(EVALUATOR, name)
        named_in = config if "${" in f"{unresolved(node)}{[str(o.input_line) for o in changes]}" else {}
        for key in (*in_files, *(o.key_or_group.removeprefix(start) for o in changes if not adds(o))):
            if not has(node, key):
                raise unknown_name(f"setting of evaluator {name}", key, keys_of(unresolved(node)))
        with one_line():
            whole: Any = OmegaConf.create({**named_in, EVALUATOR: {name: OmegaConf.merge(node, in_files)}})
        OmegaConf.set_struct(whole, True)
        settings = named(EVALUATOR, with_paths({EVALUATOR: plain(with_values(whole, changes)[EVALUATOR][name])}))
        if not (changes or in_files or named_in):
            self._known[name] = settings
        return settings


def _in_files(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what files, such as an experiment, set of evaluators: settings by evaluator."""
    settings = config.get(EVALUATOR) or {}
    if not isinstance(settings, dict) or not all(isinstance(each, dict) for each in settings.values()):
        raise InvalidValueError(f"{EVALUATOR}: settings by evaluator are needed.",
                                "Which evaluators judge is said by evaluators=[...].")
    return settings


def named(group: str, config: Mapping[str, Any]) -> Config:
    """Return the part of a config that a group makes, which has a name that can be a folder."""
    settings = config.get(group)
    if not isinstance(settings, dict):
        raise InvalidValueError(f"{group} is not a mapping of settings.", f"Choose one: {group}=<name>.")
    check_label(f"{group}.name", settings.get("name"))
    return settings


def adds(override: Override) -> bool:
    """Return whether an override may set a key that is not there."""
    return bool(override.is_add() or override.is_force_add())


def check_choice(group: str, name: Any) -> None:
    """Raise InvalidValueError for what can be no config's name."""
    if not isinstance(name, str) or not _CHOICE.fullmatch(name):
        raise InvalidValueError(f"{group}={str(name)[:100]}: a name is needed, of letters, digits and . _ + -.")


def names(setting: str, value: Any) -> list[str]:
    """Return the names of configs that a setting lists: a single one is a list, null is none."""
    listed = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise InvalidValueError(f"{setting}={value!r}: a list of names, or null, is needed.")
    for name in listed:
        check_choice(setting, name)
    return listed


def with_paths(value: Any) -> Any:
    """Return a config in which paths that begin with ~ or a variable, such as $HOME/x, have it written out."""
    if isinstance(value, dict):
        return {key: with_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_paths(inner) for inner in value]
    return with_variables(value) if isinstance(value, str) and "/" in value else value
