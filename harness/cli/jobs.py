"""One job's configs: Hydra merges; what is done here is that a job may have several methods, and what it is beside."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from harness.cells.attacked import SAMPLING, same_file_bench
from harness.cells.job import Job
from harness.cells.proposed_sampling import KEY as PROPOSAL
from harness.cells.proposed_sampling import Sampling, agreed, split_proposal
from harness.cells.settings import BenchSettings
from harness.cells.tracker import TrackerSettings
from harness.checks import check_label, with_variables
from harness.cli.hydra_configs import (
    Composed,
    Configs,
    has,
    is_null,
    one_line,
    plain,
    put,
    unresolved,
    with_values,
)
from harness.cli.near_settings import keys_of, unknown_setting, unread_keys
from harness.declared import Declared
from harness.errors import InvalidValueError, unknown_name
from harness.models.settings import ModelSettings
from harness.pool.settings import PoolSettings

EVALUATOR, METHOD = "evaluator", "method"
SETTINGS: Mapping[str, type[Declared]] = {"model": ModelSettings, "bench": BenchSettings, "pool": PoolSettings,
                                           "tracker": TrackerSettings}
PARTS = (METHOD, "model", "bench", EVALUATOR)  # what a job holds beside its settings
_CHOICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,200}")
_UNSET = "the default"  # a method's setting that was taken away, for people

Config = dict[str, Any]


@dataclass(frozen=True)
class _Words:
    """The overrides of one job, sorted."""

    methods: list[Any] | None  # as they are named; None: as the config says
    choices: tuple[str, ...]  # of the other groups
    of_method: tuple[Override, ...]
    of_evaluators: tuple[Override, ...]
    others: tuple[Override, ...]


class JobMaker:
    """Makes jobs of overrides."""

    def __init__(self, configs: Configs) -> None:
        self.configs = configs
        self._baselines: dict[tuple[Any, ...], Config] = {}
        self._evaluators: dict[str, Config] = {}
        self.unread: dict[str, None] = {}  # keys that words add and that nothing reads

    def chooses(self, override: Override) -> bool:
        """Return whether an override chooses a config of a group, rather than a value."""
        return self.configs.is_group(override.key_or_group) and not isinstance(override.value(), dict)

    def choice(self, override: Override) -> list[str]:
        """Return the word by which Hydra is told of a choice, if it needs one. Raises HarnessError if it is none."""
        group, name = override.key_or_group, override.value()
        if group == EVALUATOR:
            raise unknown_name("setting", group, ["evaluators"])
        if "/" in group:
            return [str(override.input_line)]
        if name is None or override.is_delete():
            if group != "experiment":
                raise InvalidValueError(f"{override.input_line}: a run needs a {group}.",
                                        f"Choose one: {group}=<name>.")
            return []
        check_choice(group, name)
        self.configs.check(group, str(name))
        return [str(override.input_line)]

    def _sort(self, overrides: Sequence[Override]) -> _Words:
        methods, choices = None, []
        for override in overrides:
            if not self.chooses(override):
                continue
            if override.key_or_group == METHOD and not override.is_delete():
                value = override.value()
                methods = list(value) if isinstance(value, list) else [] if value is None else [value]
            else:
                choices += self.choice(override)
        values = [override for override in overrides if not self.chooses(override)]
        if any(override.key_or_group == METHOD for override in values):
            raise InvalidValueError("method={...}: a method is named.", "Its settings are method.<setting>=<value>.")
        of_method = tuple(o for o in values if o.key_or_group.startswith(f"{METHOD}."))
        of_evaluators = tuple(o for o in values if o.key_or_group.startswith(f"{EVALUATOR}."))
        others = tuple(o for o in values if o not in of_method and o not in of_evaluators)
        return _Words(methods, tuple(choices), of_method, of_evaluators, others)

    def read_methods(self, jobs: Sequence[Sequence[Override]]) -> None:
        """Have Hydra compose all methods that the jobs name at once."""
        chosen = [o.value() for one in jobs for o in one if o.key_or_group == METHOD and self.chooses(o)]
        listed = [name for value in chosen for name in (value if isinstance(value, list) else [value]) if name]
        for name in dict.fromkeys(map(str, listed)):
            check_choice(METHOD, name)
            self.configs.check(METHOD, name)
        self.configs.read(METHOD, map(str, listed))

    def members(self, words: _Words) -> list[Composed]:
        """Return the whole config with each of a job's methods in it."""
        chosen: Any = words.methods
        if chosen is None:
            whole = self.configs.whole(words.choices)
            if isinstance(whole.choices.get(METHOD), str):
                return [whole]
            chosen = self.configs.listed(METHOD, words.choices)
        for name in chosen or ():
            check_choice(METHOD, name)
            self.configs.check(METHOD, name)
        if not chosen:
            raise InvalidValueError("method=[] names no method.", "Use method=none for the base model.")
        composed = [self.configs.with_choice(words.choices, METHOD, name) for name in chosen]
        return self._apart(composed, chosen, words) if len(composed) > 1 else composed

    def _apart(self, members: Sequence[Composed], chosen: Sequence[str], words: _Words) -> list[Composed]:
        """Leave out of each method what a file, such as an experiment, sets of another one."""
        if not self.configs.keys_of_files(METHOD, words.choices):
            return list(members)
        keys_of_each = [set(self.configs.node(METHOD, name)) for name in chosen]
        apart = []
        for member, keys in zip(members, keys_of_each, strict=True):
            others = set().union(*keys_of_each) - keys
            method = {key: value for key, value in unresolved(member.config[METHOD]).items() if key not in others}
            config = copy.deepcopy(member.config)
            put(config, METHOD, method)
            apart.append(replace(member, config=config))
        return apart

    def valued(self, words: _Words, members: Sequence[Composed]) -> list[DictConfig]:
        """Return the config with each method in it, and the values of the words set: a method's where it is its own."""
        holders = {id(override): self._holders(override, members) for override in words.of_method}
        for override in words.others:
            if not _adds(override) and not has(members[0].config, override.key_or_group):
                raise unknown_setting(override.key_or_group, unresolved(members[0].config))
        configs = []
        for place, member in enumerate(members):
            applicable = [override for override in words.of_method if place in holders[id(override)]]
            values = [override for override in (*words.others, *applicable)
                      if not (override.is_delete() and is_null(member.config, override.key_or_group))]
            config = with_values(member.config, values) if values else member.config
            for override in words.others:
                if override.is_delete():  # what is taken away is null to whoever asks for it
                    OmegaConf.update(config, override.key_or_group, None, force_add=True)
            configs.append(config)
        return configs

    def _holders(self, override: Override, members: Sequence[Composed]) -> list[int]:
        """Return which of a job's methods have a setting; all where it is added and none does."""
        places = [place for place, member in enumerate(members) if has(member.config, override.key_or_group)]
        if not (places or _adds(override)):
            raise unknown_setting(override.key_or_group, unresolved(members[0].config))
        return places or list(range(len(members)))

    def job(self, overrides: Sequence[Override]) -> Job:
        """Return the job of these overrides, all values resolved."""
        words = self._sort(overrides)
        members = self.members(words)
        configs = self.valued(words, members)
        resolved = [_with_paths(plain(config)) for config in configs]
        first = resolved[0]
        model, bench = named("model", first), named("bench", first)
        for group, settings in SETTINGS.items():
            settings.from_config(named(group, first))
        parts = [split_proposal(named(METHOD, config)) for config in resolved]
        sampling = self._sampling(words, first, parts)
        evaluators = self.evaluators(first, words.of_evaluators)
        self._check_read(words, configs[0], evaluators)
        return Job(
            settings={key: value for key, value in first.items() if key not in PARTS},
            model={**model, **sampling.taken},
            methods=tuple(method for method, _ in parts),
            bench=bench,
            evaluators=evaluators,
            baseline=self._baseline(first["baseline"], words, configs[0]),
            before=self._before(bench, words),
            method_overrides=self._changed(words, [method for method, _ in parts]),
            sampling=sampling,
        )

    def _check_read(self, words: _Words, config: DictConfig, evaluators: Sequence[Config]) -> None:
        """Raise UnknownNameError for a key in a file that nothing reads; note those that words add with a +."""
        settings = self.configs.settings()
        if config.keys() <= settings:
            return
        added = {o.key_or_group.partition(".")[0] for o in words.others if _adds(o)}
        others = [unresolved(self.configs.node(EVALUATOR, str(one["name"]))) for one in evaluators]
        for key in unread_keys(unresolved(config), settings, others):
            if key not in added:
                raise unknown_name("setting", key, settings)
            self.unread[key] = None

    def shown(self, overrides: Sequence[Override]) -> tuple[DictConfig, DictConfig]:
        """Return a job's config as people may override it, interpolations as they are written, and Hydra's own."""
        words = self._sort(overrides)
        members = self.members(words)
        configs = self.valued(words, members)
        evaluators = self.evaluators(_with_paths(plain(configs[0])), words.of_evaluators)
        config = copy.deepcopy(configs[0])
        if len(configs) > 1:
            put(config, METHOD, [unresolved(one[METHOD]) for one in configs])
        put(config, EVALUATOR, {str(one["name"]): one for one in evaluators})
        return config, members[0].hydra

    def _sampling(self, words: _Words, config: Config, parts: Sequence[tuple[Config, Any]]) -> Sampling:
        """Return whose sampling settings are followed: what the words or a file of the user's say stands."""
        proposals = [(str(method["name"]), proposal) for method, proposal in parts]
        given = {o.key_or_group.removeprefix("model.") for o in words.others if o.key_or_group.startswith("model.")}
        given |= self.configs.keys_of_files("model", words.choices)
        return agreed(config["model"], config["bench"], proposals, given, config["sampling"])

    def _changed(self, words: _Words, methods: Sequence[Config]) -> Config:
        """Return the settings of methods that a file, such as an experiment, or the words change, with their values."""
        changed: Config = {}
        for key in self.configs.keys_of_files(METHOD, words.choices):
            values = [value for method in methods if not isinstance(value := _inner(method, key), dict | None)]
            changed |= {key: values[0]} if values else {}
        for override in words.of_method:
            key = override.key_or_group.removeprefix(f"{METHOD}.")
            changed[key] = _UNSET if override.is_delete() else override.value()
        return {key: value for key, value in changed.items() if key.split(".")[0] != PROPOSAL}

    def _baseline(self, name: Any, words: _Words, config: DictConfig) -> Config | None:
        """Return the method that a job is compared with, as its own file says: what is set of methods is not its."""
        if name is None:
            return None
        check_choice("baseline", name)
        self.configs.check(METHOD, name)
        key = (name, words.choices, tuple(str(override.input_line) for override in words.others))
        if key not in self._baselines:
            config = copy.deepcopy(config)
            put(config, METHOD, self.configs.node(METHOD, name))
            self._baselines[key] = split_proposal(named(METHOD, {METHOD: _with_paths(plain(config[METHOD]))}))[0]
        return self._baselines[key]

    def _before(self, bench: Config, words: _Words) -> Config | None:
        """Return the bench whose prompts a bench's attack: another, or the same file's other column."""
        name = bench.get("attacks")
        if name is None:
            return same_file_bench(bench) if bench.get("attacked_column") is not None else None
        check_choice("bench", name)
        self.configs.check("bench", name)
        drawn = {f"bench.{key}" for key in SAMPLING}
        others = [o for o in words.others if not o.key_or_group.startswith("bench.") or o.key_or_group in drawn]
        choices = [choice for choice in words.choices if not choice.startswith("bench=")]
        whole = self.configs.with_choice(choices, "bench", name)
        before = named("bench", _with_paths(plain(with_values(whole.config, others))))
        BenchSettings.from_config(before)
        return before

    def evaluators(self, config: Config, overrides: Sequence[Override]) -> tuple[Config, ...]:
        """Return the configs of a job's evaluators, those before that a composite combines."""
        given = config["evaluators"]
        if given is None:
            lists = [names(f"{group}.evaluators", config[group].get("evaluators")) for group in ("bench", "model")]
            given = [name for part in lists for name in part]
        wanted = self._with_parts(names("evaluators", given), overrides, config)
        for name in of_files(config):
            self.configs.check(EVALUATOR, name)
        for override in overrides:
            name = override.key_or_group.split(".")[1]
            if name not in wanted:
                raise unknown_name("evaluator of this cell", name, wanted)
        return tuple(self._evaluator(name, overrides, config) for name in wanted)

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
            parts = names(f"evaluator.{name}.parts", self._evaluator(name, overrides, config).get("parts"))
            with_parts += self._with_parts(parts, overrides, config, (*above, name))
            with_parts.append(name)
        return list(dict.fromkeys(with_parts))

    def _evaluator(self, name: str, overrides: Sequence[Override], config: Config) -> Config:
        """Return an evaluator's config; its interpolations may name the job's settings."""
        start = f"{EVALUATOR}.{name}."
        changes = [override for override in overrides if override.key_or_group.startswith(start)]
        in_files = of_files(config).get(name, {})
        if not (changes or in_files) and name in self._evaluators:
            return self._evaluators[name]
        node = self.configs.node(EVALUATOR, name)
        named_in = config if "${" in f"{unresolved(node)}{[str(o.input_line) for o in changes]}" else {}
        for key in (*in_files, *(o.key_or_group.removeprefix(start) for o in changes if not _adds(o))):
            if not has(node, key):
                raise unknown_name(f"setting of evaluator {name}", key, keys_of(unresolved(node)))
        with one_line():
            whole: Any = OmegaConf.create({**named_in, EVALUATOR: {name: OmegaConf.merge(node, in_files)}})
        OmegaConf.set_struct(whole, True)
        settings = named(EVALUATOR, _with_paths({EVALUATOR: plain(with_values(whole, changes)[EVALUATOR][name])}))
        if not (changes or in_files or named_in):
            self._evaluators[name] = settings
        return settings


def named(group: str, config: Mapping[str, Any]) -> Config:
    """Return the part of a config that a group makes, which has a name that can be a folder."""
    settings = config.get(group)
    if not isinstance(settings, dict):
        raise InvalidValueError(f"{group} is not a mapping of settings.", f"Choose one: {group}=<name>.")
    check_label(f"{group}.name", settings.get("name"))
    return settings


def of_files(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what files, such as an experiment, set of evaluators: settings by evaluator."""
    settings = config.get(EVALUATOR) or {}
    if not isinstance(settings, dict) or not all(isinstance(each, dict) for each in settings.values()):
        raise InvalidValueError(f"{EVALUATOR}: settings by evaluator are needed.",
                                "Which evaluators judge is said by evaluators=[...].")
    return settings


def _adds(override: Override) -> bool:
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


def _inner(config: Any, key: str) -> Any:
    """Return the value of a key with dots; None if it is missing."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _with_paths(value: Any) -> Any:
    """Return a config in which paths that begin with ~ or a variable, such as $HOME/x, have it written out."""
    if isinstance(value, dict):
        return {key: _with_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_paths(inner) for inner in value]
    return with_variables(value) if isinstance(value, str) and "/" in value else value
