"""Configs as Hydra composes them: the harness's own, and those of the folders that a command names."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.checks import user_path
from harness.cli.near_settings import keys_of
from harness.errors import HarnessError, unknown_name
from harness.lib.paths import conf_dir
from harness.lib.reading import read_yaml

PRIMARY = "config"
PACKAGES = "pkg://"
MAX_CONFIG_NODES = 20_000
# What Hydra, OmegaConf and YAML raise on files and values of users, besides their own errors.
OF_CONFIGS = (HydraException, OmegaConfBaseException, yaml.YAMLError, RecursionError, OSError, AssertionError,
               ValueError, TypeError, KeyError, AttributeError)


class ConfigFolders(SearchPathPlugin):
    """Puts the places that a command names behind the harness's own configs."""

    places: ClassVar[tuple[str, ...]] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for place in self.places:
            search_path.append("command line", place)


class CheckedFiles(FileConfigSource):
    """Folders of people's configs: a file is looked at before it is composed, for what no config holds."""

    @staticmethod
    def scheme() -> str:
        return "checked"

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        read_yaml(file, unique_keys=True, nodes=MAX_CONFIG_NODES)
        return super().load_config(config_path)


@contextmanager
def hydra_with(places: Sequence[str]) -> Iterator[ConfigLoader]:
    """Let Hydra compose from the harness's configs and those of `places`: folders, file:// or pkg://.

    Whoever uses Hydra around this has it back afterwards.
    """
    for place in places:
        _check_place(place)
    for plugin in (ConfigFolders, CheckedFiles):
        Plugins.instance().register(plugin)
    whole, former = GlobalHydra.instance(), GlobalHydra.instance().hydra
    ConfigFolders.places = tuple(place if place.startswith(PACKAGES) else f"{CheckedFiles.scheme()}://{_folder(place)}"
                                 for place in places)
    whole.clear()
    try:
        initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="harness")
        yield whole.config_loader()
    finally:
        ConfigFolders.places = ()
        whole.hydra = former


def _folder(place: str) -> Path:
    return user_path("--config-dir", place.removeprefix("file://")).resolve()


def _check_place(place: str) -> None:
    if not place.startswith(PACKAGES) and not (folder := _folder(place)).is_dir():
        raise HarnessError(f"no config folder at {folder}.", "Pass an existing folder as --config-dir.")


@dataclass(frozen=True, eq=False)
class Composed:
    """A whole config of one choice of groups, interpolations unresolved; Hydra's own part of it; what was chosen."""

    config: DictConfig
    hydra: DictConfig
    choices: Mapping[str, Any]  # by group: a name, or a list of names


class Configs:
    """What Hydra composes, once for each choice of groups: the cells of a sweep share most of it."""

    def __init__(self, loader: ConfigLoader, name: str | None = None) -> None:
        self.loader = loader
        self.name = name or PRIMARY
        self._groups = frozenset(loader.list_groups(""))
        self._settings: frozenset[str] | None = None
        self._options: dict[str, list[str]] = {}
        self._whole: dict[tuple[str, ...], Composed] = {}
        self._nodes: dict[tuple[str, str], DictConfig | None] = {}
        self._files: dict[tuple[str, tuple[str, ...]], set[str]] = {}

    def whole(self, choices: Sequence[str]) -> Composed:
        """Return the config of these words, which choose groups."""
        key = tuple(choices)
        if key not in self._whole:
            with one_line():
                config = compose(self.name, overrides=list(key), return_hydra_config=True)
            hydra = config.hydra
            OmegaConf.set_struct(config, False)
            del config["hydra"]
            OmegaConf.set_struct(config, True)
            self._whole[key] = Composed(config, hydra, dict(hydra.runtime.choices))
        return self._whole[key]

    def with_choice(self, choices: Sequence[str], group: str, name: str) -> Composed:
        """Return the config of these words and one more choice.

        Where only the group's own file says what is in its place, it is put there, and Hydra composes once for all.
        """
        key = (*choices, f"{group}={name}")
        if key not in self._whole:
            base = self.whole(choices)
            node = None if self.keys_of_files(group, choices) else self._read([(group, name)])[group, name]
            if node is None:
                return self.whole(key)
            config = copy.deepcopy(base.config)
            put(config, group, node)
            self._whole[key] = Composed(config, base.hydra, {**base.choices, group: name})
        return self._whole[key]

    def node(self, group: str, name: str) -> DictConfig:
        """Return what the file of a group says, and what that draws on: nothing else is merged into it."""
        config = self._read([(group, name)])[group, name]
        if config is None:
            with one_line():
                compose(None, overrides=[f"+{group}={name}"])
            raise HarnessError(f"{group}/{name} is not a mapping of settings.")
        return config

    def read(self, group: str, names: Iterable[str]) -> None:
        """Have Hydra compose several files of a group at once, which is faster than one by one."""
        self._read([(group, name) for name in names])

    def _read(self, wanted: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], DictConfig | None]:
        todo = [one for one in dict.fromkeys(wanted) if one not in self._nodes]
        self._nodes |= {one: node for one in todo if (node := self._alone(*one)) is not None}
        todo = [one for one in todo if one not in self._nodes]
        if todo:
            words = [f"+{group}@n{place}={name}" for place, (group, name) in enumerate(todo)]
            try:
                composed = compose(None, overrides=words)
                nodes = [composed.get(f"n{place}") for place in range(len(todo))]
            except OF_CONFIGS:
                nodes = [None] * len(todo)
                if len(todo) > 1:  # one of them is at fault
                    for one in todo:
                        self._read([one])
                    return self._nodes
            self._nodes |= {one: node if isinstance(node, DictConfig) else None
                            for one, node in zip(todo, nodes, strict=True)}
        return self._nodes

    def _alone(self, group: str, name: str) -> DictConfig | None:
        """Return the content of a file that draws on no other, which need not be composed; None of any other."""
        try:
            result = self._read_file(f"{group}/{name}")
        except OF_CONFIGS:
            return None
        if result is None or not isinstance(result.config, DictConfig) or result.defaults_list:
            return None
        return result.config if result.header.get("package") in (None, group) else None

    def options(self, group: str) -> list[str]:
        """Return the names that a group offers."""
        if group not in self._options:
            with one_line():
                self._options[group] = self.loader.get_group_options(group)
        return self._options[group]

    def settings(self) -> frozenset[str]:
        """Return the keys that a whole config may have: the harness's own settings, and all groups."""
        if self._settings is None:
            self._settings = self._groups | {str(key) for key in self._file(PRIMARY)}
        return self._settings

    def search_path(self) -> list[str]:
        """Return the places that the primary config names under hydra.searchpath."""
        with one_line():
            places = OmegaConf.select(self._file(self.name), "hydra.searchpath")
            return [str(place) for place in places or ()]

    def is_group(self, key: str) -> bool:
        """Return whether a key names a group of configs."""
        return "/" in key or key in self._groups

    def check(self, group: str, name: str) -> None:
        """Raise UnknownNameError naming the nearest where a group has no such config."""
        if "/" not in name and (conf_dir() / group / f"{name}.yaml").is_file():
            return  # Hydra's own listing costs more than looking
        options = self.options(group)
        if name not in options:
            meant = self._of_source(group, name, options) if "/" in name else []
            raise unknown_name(group, name, meant or options)

    def _of_source(self, group: str, name: str, options: Sequence[str]) -> list[str]:
        """Return the configs of a group that take what they are of from `name`, such as a model of the hub."""
        return [option for option in options
                if str(self._file(f"{group}/{option}").get("source")).casefold() == name.casefold()]

    def _file(self, path: str) -> DictConfig:
        with one_line():
            result = self._read_file(path)
        return result.config if result and isinstance(result.config, DictConfig) else DictConfig({})

    def _read_file(self, path: str) -> ConfigResult | None:
        """Return a file as Hydra reads it, nothing of it merged."""
        result: ConfigResult | None = self.loader.repository.load_config(path)  # type: ignore[attr-defined]
        return result

    def keys_of_files(self, group: str, choices: Sequence[str]) -> set[str]:
        """Return the keys of a group that files beside the group's own set: experiments, and one's own primary config.
        """
        if self.name == PRIMARY and not self.whole(choices).choices.get("experiment"):
            return set()
        key = (group, tuple(choices))
        if key not in self._files:
            parts = [self._part(group, str(one.config_path), one.package) for one in self._merged(choices)]
            self._files[key] = {name for part in parts for name in keys_of(part)}
        return self._files[key]

    def listed(self, group: str, choices: Sequence[str]) -> list[str]:
        """Return the names where a defaults list chooses several configs of a group: [safedir, sld_medium]."""
        start = f"{group}/"
        return [str(one.config_path).removeprefix(start) for one in self._merged(choices)
                if str(one.config_path).startswith(start) and not str(one.parent).startswith(start)]

    def _merged(self, choices: Sequence[str]) -> Sequence[ResultDefault]:
        with one_line():
            return self.loader.compute_defaults_list(self.name, list(choices), RunMode.RUN).defaults

    def _part(self, group: str, path: str, package: str | None) -> Any:
        """Return what a file that is no config of the group says in its place."""
        if path == PRIMARY or path.startswith(("hydra/", f"{group}/")) or package not in (None, "", "_global_", group):
            return None
        content = unresolved(self._file(path))
        return content if package == group else content.get(group)


def put(config: DictConfig, key: str, node: Any) -> None:
    """Put a node in its place of a config, in the place of what is there."""
    OmegaConf.set_struct(config, False)
    config[key] = node
    OmegaConf.set_struct(config, True)


def with_values(config: DictConfig, overrides: Sequence[Override]) -> DictConfig:
    """Return a copy of a config in which values are changed, added and deleted as Hydra's command line does it."""
    changed = copy.deepcopy(config)
    with one_line():
        ConfigLoaderImpl._apply_overrides_to_config(list(overrides), changed)  # no public function does
    return changed


def has(config: DictConfig, key: str) -> bool:
    """Return whether a config has a key, null or not."""
    *parents, last = key.split(".")
    with one_line():
        node = OmegaConf.select(config, ".".join(parents)) if parents else config
    return isinstance(node, DictConfig) and last in node


def is_null(config: DictConfig, key: str) -> bool:
    """Return whether a key is there and empty: Hydra does not know it from one that is missing."""
    with one_line():
        return has(config, key) and OmegaConf.select(config, key) is None


def plain(config: Any) -> Any:
    """Return a config as nested dicts and lists, interpolations resolved."""
    with one_line():
        return OmegaConf.to_container(config, resolve=True)


def unresolved(config: Any) -> Any:
    """Return a config as nested dicts and lists, interpolations as they are written."""
    return OmegaConf.to_container(config, resolve=False)


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into one line, with the nearest names where a config is missing."""
    try:
        yield
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        if group and error.options:
            raise unknown_name(group, name, error.options) from None
        raise HarnessError(_first_line(error)) from None
    except BrokenPipeError:  # of what is printed: no fault of a config
        raise
    except OF_CONFIGS as error:
        raise HarnessError(_first_line(error)) from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines and error.__cause__ is not None:
        return _first_line(error.__cause__)
    return lines[0] if lines else type(error).__name__
