"""From the command line's words to resolved configurations, one for each cell. Loads no model and no torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.cells.attacked import SAMPLING, same_file_bench
from harness.cells.job import Job
from harness.cells.proposed_sampling import KEY as PROPOSAL
from harness.cells.proposed_sampling import agreed, split_proposal
from harness.checks import check_label
from harness.cli.config_types import BENCH, MODEL, TRACKER, check_types
from harness.cli.quoting import in_quotes
from harness.errors import HarnessError, InvalidValueError, unknown_name
from harness.lib.paths import conf_dir
from harness.lib.reading import read_yaml

GROUPS = ("method", "model", "bench", "pool", "tracker", "experiment")
SHARED = ("mode", "results", "pool", "tracker", "leaderboard")  # one value for a whole sweep
EVALUATOR_PREFIX = "evaluator."

MAX_CONFIG_NODES = 20_000

Config = dict[str, Any]


def compose_jobs(words: Sequence[str], multirun: bool, config_dirs: Sequence[str] = ()) -> list[Job]:
    """Compose one job for each combination of the overrides. Raises HarnessError naming the nearest valid names."""
    with _hydra(config_dirs) as search:
        overrides = [_parse(word) for word in words]
        sweeps = [sweep + overrides for sweep in _experiment_sweeps(overrides, search)]
        if not multirun and any(override.is_sweep_override() for sweep in sweeps for override in sweep):
            raise _no_sweep(next(override for sweep in sweeps for override in sweep if override.is_sweep_override()))
        composer = _Composer(search, [Path(folder).expanduser().resolve() for folder in config_dirs])
        combinations = [combination for sweep in sweeps for combination in _combinations(sweep)]
        once = {tuple(sorted(f"{o.get_key_element()}={o.value()}" for o in c)): c for c in combinations}
        jobs = [composer.job(list(combination)) for combination in once.values()]
    _check_shared(jobs)
    return jobs


def config_names(group: str, config_dirs: Sequence[str] = ()) -> list[str]:
    """Return the names that a config group offers."""
    with _hydra(config_dirs) as search:
        return _group_options(group, search)


def sweep_notes(words: Sequence[str]) -> list[str]:
    """Say of each setting that commas make a sweep of texts what its values are, and how it would be one text."""
    overrides = [_parse(word) for word in words if "=" in word and "," in word and not word.startswith("-")]
    notes = []
    for override in overrides:
        texts = list(override.sweep_string_iterator()) if override.is_choice_sweep() else []
        if override.key_or_group in GROUPS or not any(re.search(r"[^\W\d]", text) for text in texts):
            continue
        shown = ", ".join(f"'{text}'" for text in texts[:4]) + (", ..." if len(texts) > 4 else "")
        notes.append(f"{override.key_or_group} is swept over {len(texts)} values: {shown}; one text with commas needs "
                     f"quotes of its own: {_quoted(override)}")
    return notes


def _no_sweep(override: Override) -> HarnessError:
    told = f"'{override.input_line}': several values for one setting are a sweep."
    if override.key_or_group in GROUPS:
        return HarnessError(told, "Add -m to run them all.")
    return HarnessError(told, f"A sweep needs -m; a text with commas needs quotes of its own: {_quoted(override)}")


def _quoted(override: Override) -> str:
    """Write an override of a text with commas as a shell takes it."""
    key, _, text = (override.input_line or "").partition("=")
    return in_quotes(key, text)


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
        raise HarnessError(f"'{word}' is not a setting.", "Write name=value, such as limit=4.")
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        key, _, text = word.partition("=")
        raise HarnessError(
            f"cannot read '{word}': {reason}.",
            f"Put values with special characters in quotes of their own: {in_quotes(key, text)}",
        ) from None
    if override.type not in (OverrideType.CHANGE,):
        raise HarnessError(f"'{word}': settings are changed by name=value; none are added or deleted.")
    if override.is_sweep_override() and not override.is_discrete_sweep():
        raise InvalidValueError(f"'{word}' is not a list of values.", "Write a,b,c or range(start,stop,step).")
    return override


def _experiment_sweeps(overrides: Sequence[Override], search: Sequence[str]) -> list[list[Override]]:
    """Return the sweeps that an experiment file declares, less what the user sets: [[]] where there is none.

    One is under hydra.sweeper.params, more of them, each a mapping like it, under `more_sweeps`.
    """
    chosen = [o for o in overrides if o.key_or_group == "experiment" and not o.is_sweep_override()]
    if not chosen:
        return [[]]
    _check_group("experiment", str(chosen[-1].value()), search)
    words = [*search, f"experiment={chosen[-1].value()}"]
    with _one_line():
        config = compose("config", overrides=words, return_hydra_config=True)
        sweeps = [OmegaConf.select(config, "hydra.sweeper.params") or {}, *(config.get("more_sweeps") or [])]
    own = {override.key_or_group for override in overrides}
    if not all(isinstance(params, DictConfig | dict) for params in sweeps):
        raise InvalidValueError(f"experiment={chosen[-1].value()}: a sweep is a mapping of settings and their values.")
    return [[_parse(f"{key}={value}") for key, value in params.items() if key not in own] for params in sweeps]


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
    if _CHOICE.fullmatch(str(name)) and "/" not in name and (conf_dir() / group / f"{name}.yaml").is_file():
        return  # Hydra's own listing costs more than reading the file
    _check_choice(group, name)
    with _one_line():
        options = _group_options(group, search)
    if name not in options:
        raise unknown_name(group, name, options)


class _Composer:
    """Assembles jobs from config files, each of which Hydra composes once: a sweep's cells share most parts."""

    def __init__(self, search: Sequence[str], config_dirs: Sequence[Path]) -> None:
        self.search = list(search)
        self.config_dirs = config_dirs
        self._files: dict[str, DictConfig] = {}
        self._baselines: dict[tuple[int, tuple[str, ...]], Config] = {}
        self._merged: dict[tuple[tuple[str, str], ...], DictConfig] = {}
        self._defaults = _defaults()

    def job(self, overrides: Sequence[Override]) -> Job:
        groups, values, evaluator_values = self._sort(overrides)
        names = groups.pop("method")
        names = names if isinstance(names, list) else [names]
        if not names:
            raise InvalidValueError("method=[] names no method.", "Use method=none for the bare model.")
        of_method = {o.key_or_group.removeprefix("method."): o for o in values if o.key_or_group.startswith("method.")}
        shared = [override for override in values if override not in of_method.values()]
        for group, name in [*groups.items(), *(("method", name) for name in names)]:
            _check_choice(group, name)
        configs = [self._config({**groups, "method": name}) for name in names]
        for key in of_method:
            if not any(_has(config, f"method.{key}") for config in configs):
                self._refuse_key(f"method.{key}", configs[0])
        resolved = [
            self._resolved(config, [*shared, *(o for key, o in of_method.items() if _has(config, f"method.{key}"))])
            for config in configs
        ]
        first = resolved[0]
        model, bench = _named("model", first), _named("bench", first)
        for group, config, types in (("model", model, MODEL), ("bench", bench, BENCH),
                                     ("tracker", _named("tracker", first), TRACKER)):
            check_types(group, config, types)
        parts = [split_proposal(_named("method", config)) for config in resolved]
        sampling = agreed(model, bench, [(str(method["name"]), proposal) for method, proposal in parts],
                          self._given(groups, shared), first["sampling"])
        return Job(
            settings={key: value for key, value in first.items() if key not in ("method", "model", "bench")},
            model={**model, **sampling.taken},
            methods=tuple(method for method, _ in parts),
            bench=bench,
            evaluators=self._evaluators(first, evaluator_values),
            baseline=self._baseline(first["baseline"], groups, shared),
            before=self._before(bench, groups, shared),
            method_overrides={key: o.value() for key, o in of_method.items() if key.split(".")[0] != PROPOSAL},
            sampling=sampling,
        )

    def _given(self, groups: Config, overrides: Sequence[Override]) -> set[str]:
        """Return the settings of the model that the command line, or the experiment that it names, sets."""
        given = {override.key_or_group for override in overrides}
        experiment = self._file(f"experiment/{name}").get("model") if (name := groups.get("experiment")) else None
        given |= {f"model.{key}" for key in experiment or {}}
        return {key.removeprefix("model.") for key in given if key.startswith("model.")}

    def _sort(self, overrides: Sequence[Override]) -> tuple[Config, list[Override], list[Override]]:
        """Return the choice of every group, the overrides of values, and those of evaluators."""
        chosen = {o.key_or_group: o.value() for o in overrides if o.key_or_group in GROUPS}
        groups = {group: chosen.get(group, default) for group, default in self._defaults.items()}
        rest = [o for o in overrides if o.key_or_group not in GROUPS]
        of_evaluators = [o for o in rest if o.key_or_group.startswith(EVALUATOR_PREFIX)]
        return groups, [o for o in rest if o not in of_evaluators], of_evaluators

    def _config(self, groups: Config) -> DictConfig:
        """Return the whole config of these choices, as Hydra's defaults list orders it; interpolations unresolved."""
        key = tuple((group, str(groups[group])) for group in GROUPS if groups.get(group) is not None)
        if key not in self._merged:
            for group, name in key:
                _check_group(group, name, self.search)
            settings = {k: v for k, v in self._file("config").items_ex(resolve=False) if k not in GROUPS}
            # An experiment comes last in GROUPS: it overrides the others.
            merged = OmegaConf.merge(settings, *(self._file(f"{group}/{name}") for group, name in key))
            assert isinstance(merged, DictConfig)
            OmegaConf.set_struct(merged, True)
            self._merged[key] = merged
        return self._merged[key]

    def _file(self, name: str) -> DictConfig:
        if name not in self._files:
            self._files[name] = self._compose_file(name)
        return self._files[name]

    def _compose_file(self, name: str) -> DictConfig:
        own = next((folder for folder in self.config_dirs if (folder / f"{name}.yaml").is_file()), None)
        if own is None or (conf_dir() / f"{name}.yaml").is_file():
            with _one_line():
                return _shipped(name)
        read_yaml(own / f"{name}.yaml", nodes=MAX_CONFIG_NODES)  # says in one line what Hydra says in many
        GlobalHydra.instance().clear()  # Hydra finds a primary config in its own folder only
        with initialize_config_dir(str(own), version_base="1.3", job_name="harness"), _one_line():
            found = _open(compose(name, overrides=[f"hydra.searchpath=['file://{conf_dir()}']"]))
        GlobalHydra.instance().clear()
        initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="harness").__enter__()
        return found

    def _resolved(self, config: DictConfig, overrides: Sequence[Override]) -> Config:
        """Return plain values after the overrides. Raises HarnessError for a key that is not there."""
        config = config.copy() if overrides else config
        for override in overrides:
            if not _has(config, override.key_or_group):
                self._refuse_key(override.key_or_group, config)
            with _one_line():
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        with _one_line():
            container = OmegaConf.to_container(config, resolve=True)
        assert isinstance(container, dict)
        return {str(key): value for key, value in container.items()}

    def _baseline(self, name: str | None, groups: Config, shared: Sequence[Override]) -> Config | None:
        if name is None:
            return None
        _check_choice("baseline", name)
        config = self._config({**groups, "method": name})
        key = id(config), tuple(str(override.input_line) for override in shared)  # the same for most of a sweep's jobs
        if key not in self._baselines:
            self._baselines[key] = split_proposal(_named("method", self._resolved(config, shared)))[0]
        return self._baselines[key]

    def _before(self, bench: Config, groups: Config, shared: Sequence[Override]) -> Config | None:
        """Return the bench whose prompts a bench's attack: another, or the same file's other column."""
        name = bench.get("attacks")
        if name is None:
            return same_file_bench(bench) if bench.get("attacked_column") is not None else None
        _check_group("bench", name, self.search)
        drawn = {f"bench.{key}" for key in SAMPLING}
        others = [o for o in shared if not o.key_or_group.startswith("bench.") or o.key_or_group in drawn]
        found = _named("bench", self._resolved(self._config({**groups, "bench": name}), others))
        check_types("bench", found, BENCH)
        return found

    def _evaluators(self, config: Config, overrides: Sequence[Override]) -> tuple[Config, ...]:
        names = config["evaluators"]
        if names is None:
            own = [_names(f"{group}.evaluators", config[group].get("evaluators")) for group in ("bench", "model")]
            names = [name for part in own for name in part]
        names = self._with_parts(_names("evaluators", names))
        for override in overrides:
            name = override.key_or_group.removeprefix(EVALUATOR_PREFIX).split(".")[0]
            if name not in names:
                raise unknown_name("evaluator of this cell", name, names)
        return tuple(self._evaluator(name, overrides) for name in names)

    def _with_parts(self, names: Sequence[str], above: tuple[str, ...] = ()) -> list[str]:
        """Return the evaluators, those that a composite combines before it."""
        found: list[str] = []
        for name in names:
            if name in above:
                raise InvalidValueError(f"evaluator {name} is a part of itself: {' > '.join((*above, name))}.")
            parts = _names(f"evaluator.{name}.parts", self._evaluator(name, ()).get("parts"))
            found += self._with_parts(parts, (*above, name))
            found.append(name)
        return list(dict.fromkeys(found))

    def _evaluator(self, name: str, overrides: Sequence[Override]) -> Config:
        _check_group("evaluator", name, self.search)
        with _one_line():
            whole = OmegaConf.to_container(self._file(f"evaluator/{name}"), resolve=True)
        config = _named("evaluator", {"evaluator": whole.get("evaluator") if isinstance(whole, dict) else None})
        for override in overrides:
            key = override.key_or_group.removeprefix(f"{EVALUATOR_PREFIX}{name}.")
            if key != override.key_or_group:
                *parents, last = key.split(".")
                inner: Any = config
                for part in parents:
                    inner = inner.get(part) if isinstance(inner, dict) else None
                if not isinstance(inner, dict) or last not in inner:
                    raise unknown_name(f"setting of evaluator {name}", key, _keys(config))
                inner[last] = _plain_value(override)
        return _named("evaluator", {"evaluator": {str(key): value for key, value in config.items()}})

    def _refuse_key(self, key: str, config: DictConfig) -> NoReturn:
        valid = _keys(OmegaConf.to_container(config, resolve=False))
        near = [name for name in valid if name.split(".")[-1] == key.split(".")[-1]]
        raise unknown_name("setting", key, near or valid)


@cache
def _defaults() -> Mapping[str, str | None]:
    """Return what every group is where nobody chooses. Needs Hydra."""
    config = compose("config", return_hydra_config=True)
    return {group: config.hydra.runtime.choices.get(group) for group in GROUPS}


@cache
def _shipped(name: str) -> DictConfig:
    """Return a config file of the package, read once a process; it is merged into others and never changed.

    Needs Hydra, which raises for what is not there.
    """
    return _open(_plain_file(conf_dir() / f"{name}.yaml", name) or compose(name))


def _open(config: DictConfig) -> DictConfig:
    """Return the config, which may now be merged with keys that it does not have."""
    OmegaConf.set_struct(config, False)
    return config


_NEEDS_HYDRA = re.compile(r"^(defaults:|#\s*@package)", re.MULTILINE)


def _plain_file(file: Path, name: str) -> DictConfig | None:
    """Read a group's file that draws on no other, under its group's name, as Hydra would, in far less time."""
    text = file.read_text(encoding="utf-8") if "/" in name and file.is_file() else "defaults:"
    if _NEEDS_HYDRA.search(text):
        return None
    return OmegaConf.create({name.rpartition("/")[0].replace("/", "."): OmegaConf.load(file)})


_CHOICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,200}")
_ABSENT = object()


def _has(config: DictConfig, key: str) -> bool:
    return OmegaConf.select(config, key, default=_ABSENT) is not _ABSENT


# What Hydra, OmegaConf and YAML raise on files and values of users, besides their own errors.
_OF_CONFIGS = (HydraException, OmegaConfBaseException, yaml.YAMLError, RecursionError, OSError, AssertionError,
               ValueError, TypeError, KeyError, AttributeError)


def _named(group: str, config: Mapping[str, Any]) -> Config:
    """Return the part of a config that a group makes, which has a name that can be a folder."""
    found = config.get(group)
    if not isinstance(found, dict):
        raise InvalidValueError(f"{group} is no mapping of settings.", f"Choose one: {group}=<name>.")
    check_label(f"{group}.name", found.get("name"))
    return found


def _check_choice(group: str, name: Any) -> None:
    if name is not None and (not isinstance(name, str) or not _CHOICE.fullmatch(name)):
        raise InvalidValueError(f"{group}={str(name)[:100]}: a name is needed, of letters, digits and . _ + -.")


def _names(setting: str, value: Any) -> list[str]:
    """Return the names of configs that a setting lists; none for null."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InvalidValueError(f"{setting}={value!r}: a list of names, or null, is needed.")
    for name in value:
        _check_choice(setting, name)
    return value


def _plain_value(override: Override) -> Any:
    with _one_line():
        return OmegaConf.to_container(OmegaConf.create({"value": override.value()}), resolve=True)["value"]  # type: ignore[index, call-overload]


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into one line."""
    try:
        yield
    except _OF_CONFIGS as error:
        first = (str(error).splitlines() or [""])[0]
        raise HarnessError(f"{first or type(error).__name__}") from None


def _keys(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, dict):
        return []
    own = [f"{prefix}{key}" for key in config]
    return own + [name for key, value in config.items() for name in _keys(value, f"{prefix}{key}.")]


def _check_shared(jobs: Sequence[Job]) -> None:
    for key in SHARED:
        if any(job.settings.get(key) != jobs[0].settings.get(key) for job in jobs):
            raise HarnessError(f"'{key}' cannot be swept: all cells of a sweep share it.")
