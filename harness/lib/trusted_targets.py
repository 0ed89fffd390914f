"""Classes that a stored config may name: those of this package, and those that the user's command names."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.checks import with_variables
from harness.errors import HarnessError, IncompatibleError
from harness.lib.paths import PACKAGE
from harness.lib.reading import UnreadableFileError, read_yaml
from harness.lib.targets import locate

TARGET = "_target_"
LOADER = "loader"  # of a model: the class that opens it
_OWN = re.compile(r"(harness|methods)(\.[A-Za-z_][A-Za-z0-9_]*)+")


def named_targets(value: Any, keys: Collection[str] = (TARGET,)) -> Iterator[str]:
    """Yield every class that a config names, at any depth."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, Mapping):
            yield from (str(inner) for key, inner in one.items() if key in keys and inner is not None)
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one


def targets_of(config_dirs: Sequence[str]) -> frozenset[str]:
    """Return every class that the files of the person's own config folders name."""
    targets: set[str] = set()
    for folder in config_dirs:
        for file in sorted(Path(with_variables(folder)).rglob("*.yaml")):
            try:
                targets.update(named_targets(read_yaml(file), (TARGET, LOADER)))
            except UnreadableFileError:
                continue  # a file that is used is refused when it is composed
    return frozenset(targets)


def check_stored(config: Any, kinds: tuple[type, ...], trusted: Collection[str], where: str) -> None:
    """Refuse a stored config that names anything but classes of `kinds` in this package, and what is `trusted`.

    Raises IncompatibleError; nothing outside of this package is imported.
    """
    for path in named_targets(config):
        stored_class(path, kinds, trusted, where)


def stored_class(path: str, kinds: tuple[type, ...], trusted: Collection[str], where: str) -> Any:
    """Return the class that data names. Raises IncompatibleError if it is neither ours, nor trusted, nor a kind."""
    if path in trusted:
        return locate(path, where)
    try:
        named = locate(path, where) if _is_own(path) else None
    except HarnessError:  # there is no such module or class
        named = None
    if not (isinstance(named, type) and issubclass(named, kinds) and _is_own(f"{named.__module__}.x")):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise IncompatibleError(f"{where} names {path[:100]!r}, which is not a {wanted} of the harness: files are data "
                                "and must not run code.",
                                "If it is yours, pass the folder with its config: --config-dir <folder>.")
    return named


def _is_own(path: str) -> bool:
    """Return whether a path names something in a module of this installation, without importing others."""
    if not _OWN.fullmatch(path):
        return False
    top = path.split(".")[0]
    spec = importlib.util.find_spec(top)
    places: Iterable[str] = (spec.submodule_search_locations if spec else None) or ()
    return any(Path(place).resolve() == (PACKAGE.parent / top).resolve() for place in places)
