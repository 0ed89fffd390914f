"""One job's configs: Hydra merges; what is done here is that a job may have several methods, and what it is beside."""

from __future__ import annotations

import copy
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
from harness.cli.evaluator_configs import (
    EVALUATOR,
    Config,
    EvaluatorConfigs,
    adds,
    check_choice,
    named,
    with_paths,
)
from harness.cli.following import PROTOCOL, Protocols, without_protocol
from harness.cli.hydra_configs import (
    PRIMARY,
    Composed,
    Configs,
    has,
    is_null,
    plain,
    put,
    unresolved,
    with_values,
)
from harness.cli.near_settings import unknown_setting, unread_keys
from harness.declared import Declared
from harness.errors import InvalidValueError, unknown_name
from harness.models.settings import ModelSettings
from harness.pool.settings import PoolSettings

METHOD = "method"
SETTINGS: Mapping[str, type[Declared]] = {"model": ModelSettings, "bench": BenchSettings, "pool": PoolSettings,
                                           "tracker": TrackerSettings}
PARTS = (METHOD, "model", "bench", EVALUATOR, PROTOCOL)  # what a job holds beside its settings
OPTIONAL = ("experiment", PROTOCOL)  # groups of which a run needs none
_UNSET = "the default"  # a method's setting that was taken away, for people


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
        self.evaluators = EvaluatorConfigs(configs)
        self.protocols = Protocols(configs)
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
            if group not in OPTIONAL:
                raise InvalidValueError(f"{override.input_line}: a run needs a {group}.",
                                        f"Choose one: {group}=<name>.")
            return []
        check_choice(group, name)
        self.configs.check(group, str(name))
        return [] if group == PROTOCOL else [str(override.input_line)]  # what it sets is told as words

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
            if not adds(override) and not has(members[0].config, override.key_or_group):
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
        if not (places or adds(override)):
            raise unknown_setting(override.key_or_group, unresolved(members[0].config))
        return places or list(range(len(members)))

    def job(self, overrides: Sequence[Override]) -> Job:
        """Return the job of these overrides, all values resolved. Raises HarnessError where it leaves its protocol."""
        asked = self.protocols.asked(overrides, self._protocol_of_files(overrides))
        if asked is None:
            return self._job(without_protocol(overrides))
        job = self._job(asked.overrides)
        return replace(job, protocol=asked.followed(job, self._job(asked.alone)))

    def _protocol_of_files(self, overrides: Sequence[Override]) -> str | None:
        """Return the protocol that an experiment, or one's own primary config, chooses in its defaults."""
        choices = self._sort(without_protocol(overrides)).choices
        if self.configs.name == PRIMARY and not any(choice.startswith("experiment=") for choice in choices):
            return None
        name = self.configs.whole(choices).choices.get(PROTOCOL)
        return None if name is None else str(name)

    def _job(self, overrides: Sequence[Override]) -> Job:
        words = self._sort(overrides)
        members = self.members(words)
        configs = self.valued(words, members)
        resolved = [with_paths(plain(config)) for config in configs]
        first = resolved[0]
        model, bench = named("model", first), named("bench", first)
        for group, settings in SETTINGS.items():
            settings.from_config(named(group, first))
        parts = [split_proposal(named(METHOD, config)) for config in resolved]
        sampling = self._sampling(words, first, parts)
        evaluators = self.evaluators.of_job(first, words.of_evaluators)
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
        added = {o.key_or_group.partition(".")[0] for o in words.others if adds(o)}
        others = [unresolved(self.configs.node(EVALUATOR, str(one["name"]))) for one in evaluators]
        for key in unread_keys(unresolved(config), settings, others):
            if key not in added:
                raise unknown_name("setting", key, settings)
            self.unread[key] = None

    def shown(self, overrides: Sequence[Override]) -> tuple[DictConfig, DictConfig]:
        """Return a job's config as people may override it, interpolations as they are written, and Hydra's own."""
        asked = self.protocols.asked(overrides, self._protocol_of_files(overrides))
        words = self._sort(asked.overrides if asked else without_protocol(overrides))
        members = self.members(words)
        configs = self.valued(words, members)
        evaluators = self.evaluators.of_job(with_paths(plain(configs[0])), words.of_evaluators)
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
            self._baselines[key] = split_proposal(named(METHOD, {METHOD: with_paths(plain(config[METHOD]))}))[0]
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
        before = named("bench", with_paths(plain(with_values(whole.config, others))))
        BenchSettings.from_config(before)
        return before


def _inner(config: Any, key: str) -> Any:
    """Return the value of a key with dots; None if it is missing."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
