"""Files that others may have written, read as data: regular files, JSON and YAML, within limits of size and depth."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InvalidValueError

try:
    from yaml import _yaml as _libyaml
except ImportError:  # PyYAML without libyaml
    _libyaml = None  # type: ignore[assignment]

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 40
MAX_NODES = 2_000_000  # of a YAML document with its aliases written out
MAX_DIGITS = 40  # of an integer; what is longer is no number of ours, and float() of it may raise

_SURROGATES = re.compile("[\ud800-\udfff]")


class UnreadableFileError(InvalidValueError):
    """A file that is there and cannot be read as what it should be; `reason` says why in a few words."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path, self.reason = str(path), " ".join(reason.split())[:200].rstrip(".")
        super().__init__(f"{path} cannot be read: {self.reason}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes | None:
    """Return a file's content, None if there is none. Raises UnreadableFileError.

    Only regular files: opening a pipe waits forever, and a device never ends.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableFileError(path, "it is not a regular file")
        if about.st_size > limit:
            raise UnreadableFileError(path, f"it has {about.st_size} bytes; the limit is {limit}")
        with path.open("rb") as file:
            return file.read(min(limit, about.st_size + 1))  # `limit` bytes would be set aside at once
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnreadableFileError(path, error.strerror or type(error).__name__) from None
    except ValueError as error:  # a null byte in the name
        raise UnreadableFileError(str(path).replace("\0", "\\0"), str(error)) from None


def parse_json(data: bytes | str, unique_keys: bool = False) -> Any:
    """Return what a JSON text holds, lone surrogates replaced. Raises ValueError: broken, deep, huge numbers."""
    try:
        value = json.loads(data, parse_int=_integer, object_pairs_hook=_once if unique_keys else None)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from None
    _check_depth(value)
    return _clean(value) if _may_hold_surrogates(data) else value


def parse_yaml(text: str, unique_keys: bool = False, nodes: int = MAX_NODES) -> Any:
    """Return what a YAML text holds: plain values only. Raises ValueError.

    Documents that are deep, or grow beyond measure when their aliases are written out, are refused.
    """
    try:
        slow = _libyaml is None or _may_hold_surrogates(text)  # which libyaml refuses
        loader = (_Limited if slow else _Fast)(text, nodes, unique_keys)
    except yaml.YAMLError as error:  # a character that no YAML text may hold
        raise ValueError(_in_one_line(error)) from None
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(_in_one_line(error)) from None
    except (RecursionError, OverflowError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise ValueError(f"it has an invalid value ({type(error).__name__})") from None
    finally:
        loader.dispose()


def _in_one_line(error: yaml.YAMLError) -> str:
    """Say what is wrong and in which line; whoever reads the file names it."""
    return " ".join(str(error).replace('in "<unicode string>", ', "in ").split())


def read_json(path: Path, limit: int = MAX_BYTES) -> dict[str, Any] | None:
    """Return the JSON object of a file, None if there is no file. Raises UnreadableFileError."""
    data = read_bytes(path, limit)
    if data is None:
        return None
    try:
        content = parse_json(data)
    except ValueError as error:
        raise UnreadableFileError(path, str(error)) from None
    if not isinstance(content, dict):
        raise UnreadableFileError(path, f"it holds a {_kind(content)}; expected an object")
    return content


def read_yaml(
    path: Path, limit: int = MAX_BYTES, unique_keys: bool = False, nodes: int = MAX_NODES
) -> dict[str, Any] | None:
    """Return the YAML mapping of a file, None if there is no file. Raises UnreadableFileError."""
    data = read_bytes(path, limit)
    if data is None:
        return None
    try:
        content = parse_yaml(data.decode("utf-8"), unique_keys, nodes)
    except ValueError as error:
        raise UnreadableFileError(path, str(error)) from None
    if not isinstance(content, dict):
        raise UnreadableFileError(path, f"it holds {_kind(content)}; expected a mapping")
    odd = next((key for key in content if not isinstance(key, str)), None)
    if odd is not None:
        raise UnreadableFileError(path, f"its key {odd!r} is not a text")
    return content


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has a duplicate key")
    return values


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"it holds an integer of {len(text)} digits")
    return int(text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level if isinstance(one, dict | list)
                 for inner in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def _may_hold_surrogates(data: bytes | str) -> bool:
    return (b"\\ud" in data.lower()) if isinstance(data, bytes) else "\\ud" in data.lower()


def _clean(value: Any) -> Any:
    """Replace lone surrogates, which no file and no terminal takes."""
    if isinstance(value, str):
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list) else value


class _Limited(yaml.SafeLoader):
    """A safe loader that counts nodes, aliases written out, while it composes.

    With `unique`, a repeated key is an error, where YAML's own loader keeps the last.
    """

    def __init__(self, text: str, nodes: int, unique: bool) -> None:
        super().__init__(text)
        self._limit, self._unique = nodes, unique
        self._depth = 0
        self._sizes: dict[int, int] = {}  # by node, aliases written out
        self._nested: list[int] = []  # sizes so far of the collections that are open

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        alias = self.check_event(yaml.AliasEvent)
        if self._depth >= MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        self._depth += 1
        self._nested.append(1)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        size_below = self._nested.pop()
        if alias and id(node) not in self._sizes:
            raise ValueError("it contains itself")
        size = self._sizes.setdefault(id(node), size_below)
        if self._nested:
            self._nested[-1] += size
        if size + sum(self._nested) > self._limit:
            raise ValueError(f"it has more than {self._limit} values with its aliases written out")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if self._unique:
            self._refuse_repeated(node)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        if not all(key is None or isinstance(key, str | int | float) for key in mapping):
            raise ValueError("it has a key that is not a text")
        return mapping

    def _refuse_repeated(self, node: yaml.MappingNode) -> None:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable) and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is a duplicate", key.start_mark)
            seen |= {name} if isinstance(name, Hashable) else set()  # one that is a list is refused below

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(str(node.value)) > MAX_DIGITS:
            raise ValueError(f"it holds an integer of {len(str(node.value))} digits")
        number: int = super().construct_yaml_int(node)
        return number

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        return str(_clean(str(self.construct_scalar(node))))


_Limited.add_constructor("tag:yaml.org,2002:int", _Limited.construct_yaml_int)
_Limited.add_constructor("tag:yaml.org,2002:str", _Limited.construct_yaml_str)


class _Fast(_Limited):
    """The same, with the events of libyaml's parser, which takes a fifth of the time."""

    def __init__(self, text: str, nodes: int, unique: bool) -> None:
        super().__init__("", nodes, unique)
        self._events: Any = _libyaml.CParser(text)

    def check_event(self, *choices: Any) -> bool:
        return bool(self._events.check_event(*choices))

    def peek_event(self) -> Any:
        return self._events.peek_event()

    def get_event(self) -> Any:
        return self._events.get_event()

    def dispose(self) -> None:
        super().dispose()
        self._events.dispose()
