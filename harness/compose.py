"""From the command line's words to resolved configurations, one for each cell. Loads no model and no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.errors import HarnessError, InvalidValueError, unknown_name
from harness.paths import conf_dir

GROUPS = ("method", "model", "bench", "pool", "tracker", "experiment")
SHARED = ("mode", "results", "pool", "tracker", "leaderboard")  # one value for a whole sweep
EVALUATOR_PREFIX = "evaluator."

Config = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One cell as asked for: settings, model, methods (left to right), bench and evaluators, all resolved."""

    settings: Config
    model: Config
    methods: tuple[Config, ...]
    bench: Config
    evaluators: tuple[Config, ...]
    baseline: Config | None
    method_overrides: Config = field(default_factory=dict)


def compose_jobs(words: Sequence[str], multirun: bool, config_dirs: Sequence[str] = ()) -> list[Job]:
    """Compose one job for each combination of the overrides. Raises HarnessError naming the nearest valid names."""
    with _hydra(config_dirs) as search:
        overrides = [_parse(word) for word in words]
        overrides = _experiment_sweep(overrides, search) + overrides
        if not multirun and any(override.is_sweep_override() for override in overrides):
            raise HarnessError("several values for one setting are a sweep.", "Add -m to run them all.")
        composer = _Composer(search)
        jobs = [composer.job(list(combination)) for combination in _combinations(overrides)]
    _check_shared(jobs)
    return jobs


def config_names(group: str, config_dirs: Sequence[str] = ()) -> list[str]:
    """Return the names that a config group offers."""
    with _hydra(config_dirs) as search:
        return _group_options(group, search)


@contextmanager
def _hydra(config_dirs: Sequence[str]) -> Iterator[list[str]]:
    GlobalHydra.instance().clear()
    folders = [Path(folder).expanduser().resolve() for folder in config_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise HarnessError(f"there is no config folder {folder}.", "Give --config-dir an existing folder.")
    quoted = ",".join(f"'file://{folder}'" for folder in folders)
    search = [f"hydra.searchpath=[{quoted}]"] if folders else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="harness"):
        yield search


def _group_options(group: str, search: Sequence[str]) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group, config_name="config", overrides=list(search))


def _parse(word: str) -> Override:
    if "=" not in word:
        raise HarnessError(f"'{word}' is not a setting.", "Write name=value, such as method=safedir.")
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(f"cannot read '{word}': {reason}.", "Put values with special characters in quotes.") from None
    if override.type not in (OverrideType.CHANGE,):
        raise HarnessError(f"'{word}': settings are changed by name=value; none are added or deleted.")
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise InvalidValueError(f"'{word}' is not a list of values.", "Write a,b,c or range(start,stop,step).")
    return override


def _experiment_sweep(overrides: Sequence[Override], search: Sequence[str]) -> list[Override]:
    """Return the sweep that an experiment file declares under hydra.sweeper.params, less what the user sets."""
    chosen = [o for o in overrides if o.key_or_group == "experiment" and not o.is_sweep_override()]
    if not chosen:
        return []
    _check_group("experiment", str(chosen[-1].value()), search)
    words = [*search, f"experiment={chosen[-1].value()}"]
    config = compose("config", overrides=words, return_hydra_config=True)
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    own = {override.key_or_group for override in overrides}
    return [_parse(f"{key}={value}") for key, value in params.items() if key not in own]


def _combinations(overrides: Sequence[Override]) -> Iterator[tuple[Override, ...]]:
    """Yield one plain override list for each combination of swept values; later words win over earlier ones."""
    by_key = {override.key_or_group: override for override in overrides}
    parser = OverridesParser.create()
    choices = []
    for override in by_key.values():
        key = override.get_key_element()
        if override.is_sweep_override():
            choices.append([parser.parse_override(f"{key}={value}") for value in override.sweep_string_iterator()])
        else:
            choices.append([override])
    return itertools.product(*choices)


def _check_group(group: str, name: str, search: Sequence[str]) -> None:
    options = _group_options(group, search)
    if name not in options:
        raise unknown_name(group, name, options)


class _Composer:
    """Composes jobs; remembers what it composed, since the cells of a sweep share most parts."""

    def __init__(self, search: Sequence[str]) -> None:
        self.search = list(search)
        self._cache: dict[tuple[str, ...], DictConfig] = {}

    def job(self, overrides: Sequence[Override]) -> Job:
        groups, values, evaluator_values = self._sort(overrides)
        methods = groups.pop("method", ["safedir"])
        methods = methods if isinstance(methods, list) else [methods]
        if not methods:
            raise InvalidValueError("method=[] names no method.", "Use method=none for the bare model.")
        for group, name in [*groups.items(), *(("method", method) for method in methods)]:
            _check_group(group, str(name), self.search)
        chosen = [f"{group}={name}" for group, name in groups.items()]
        composed = [self._with_values([*chosen, f"method={name}"], values, len(methods)) for name in methods]
        method_values = [o.get_key_element() for o in values if o.key_or_group.startswith("method.")]
        for key in method_values:
            if not any(OmegaConf.select(config, key, default=_ABSENT) is not _ABSENT for config in composed):
                self._refuse_key(key, composed[0])
        first = _resolved(composed[0])
        return Job(
            settings={k: v for k, v in first.items() if k not in ("method", "model", "bench")},
            model=first["model"],
            methods=tuple(_resolved(config)["method"] for config in composed),
            bench=first["bench"],
            evaluators=self._evaluators(first, evaluator_values),
            baseline=self._baseline(first["baseline"], chosen, values),
            method_overrides={o.key_or_group.removeprefix("method."): o.value() for o in values
                              if o.key_or_group.startswith("method.")},
        )

    def _baseline(self, name: str | None, groups: Sequence[str], values: Sequence[Override]) -> Config | None:
        if name is None:
            return None
        _check_group("method", str(name), self.search)
        shared = [override for override in values if not override.key_or_group.startswith("method.")]
        return dict(_resolved(self._with_values([*groups, f"method={name}"], shared, 1))["method"])

    def _sort(self, overrides: Sequence[Override]) -> tuple[Config, list[Override], list[Override]]:
        groups = {o.key_or_group: o.value() for o in overrides if o.key_or_group in GROUPS}
        rest = [o for o in overrides if o.key_or_group not in GROUPS]
        of_evaluators = [o for o in rest if o.key_or_group.startswith(EVALUATOR_PREFIX)]
        return groups, [o for o in rest if o not in of_evaluators], of_evaluators

    def _with_values(self, groups: list[str], values: Sequence[Override], n_methods: int) -> DictConfig:
        base = self._compose(groups)
        words = []
        for override in values:
            key = override.key_or_group
            if OmegaConf.select(base, key, default=_ABSENT) is _ABSENT:
                if n_methods > 1 and key.startswith("method."):
                    continue  # another method of the list may have it
                self._refuse_key(key, base)
            words.append(f"{override.get_key_element()}={override.get_value_element_as_str()}")
        return self._compose([*groups, *words])

    def _compose(self, words: Sequence[str], config_name: str = "config") -> DictConfig:
        key = (config_name, *words)
        if key not in self._cache:
            try:
                self._cache[key] = compose(config_name, overrides=[*self.search, *words])
            except (HydraException, OmegaConfBaseException) as error:
                raise HarnessError(str(error).splitlines()[0]) from None
        return self._cache[key]

    def _evaluators(self, config: Config, overrides: Sequence[Override]) -> tuple[Config, ...]:
        names = config["evaluators"]
        if names is None:
            names = [*(config["bench"].get("evaluators") or []), *(config["model"].get("evaluators") or [])]
        for override in overrides:
            name = override.key_or_group.removeprefix(EVALUATOR_PREFIX).split(".")[0]
            if name not in names:
                raise unknown_name("evaluator of this cell", name, names)
        return tuple(self._evaluator(name, overrides) for name in dict.fromkeys(names))

    def _evaluator(self, name: str, overrides: Sequence[Override]) -> Config:
        _check_group("evaluator", name, self.search)
        prefix = f"{EVALUATOR_PREFIX}{name}."
        base = self._compose([], f"evaluator/{name}")
        words = []
        for override in overrides:
            if override.key_or_group.startswith(prefix):
                key = override.key_or_group.removeprefix(prefix)
                if key not in base.evaluator:
                    raise unknown_name(f"setting of evaluator {name}", key, base.evaluator.keys())
                words.append(f"evaluator.{key}={override.get_value_element_as_str()}")
        return dict(_resolved(self._compose(words, f"evaluator/{name}"))["evaluator"])

    def _refuse_key(self, key: str, base: DictConfig) -> None:
        valid = _keys(OmegaConf.to_container(base, resolve=False))
        near = [name for name in valid if name.split(".")[-1] == key.split(".")[-1]]
        raise unknown_name("setting", key, near or valid)


_ABSENT = object()


def _keys(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, dict):
        return []
    own = [f"{prefix}{key}" for key in config]
    return own + [name for key, value in config.items() for name in _keys(value, f"{prefix}{key}.")]


def _resolved(config: DictConfig) -> Config:
    try:
        container = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise HarnessError(str(error).splitlines()[0]) from None
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _check_shared(jobs: Sequence[Job]) -> None:
    for key in SHARED:
        if any(job.settings.get(key) != jobs[0].settings.get(key) for job in jobs):
            raise HarnessError(f"'{key}' cannot be swept: all cells of a sweep share it.")
