"""Types of settings: what an annotation says of a setting, and how an error says it in words.

`Annotated[float, Ge(0), Le(1)]`, `Literal["calls", "fraction"]` and the names below are declarations: a class that
derives from `harness.declared.Declared`, as methods and evaluators do, is only made of values that fit them.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

from harness.checks import file_problem, label_problem, path_problem

T = TypeVar("T")


@dataclass(frozen=True)
class Must:
    """What holds of a value besides its type, in words: `one` of one value, `many` of the values of a list."""

    one: str
    many: str
    holds: Callable[[Any], bool]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def checked(value: Any) -> Any:
            if not self.holds(value):
                raise PydanticCustomError("must", "must be {one}", {"one": self.one})
            return value

        return core_schema.no_info_after_validator_function(checked, handler(source))


@dataclass(frozen=True)
class OneOf:
    """One of some names that are known at run time; `Literal` says those that are written out."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.literal_schema(list(self.names))


class Alone:
    """A value that stands alone is a list of one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def listed(value: Any) -> tuple[Any, ...]:
            return tuple(value) if isinstance(value, (list, tuple)) else (value,)

        return core_schema.no_info_before_validator_function(listed, handler(source))


@dataclass(frozen=True)
class Unless:
    """What holds of a text unless `problem` says, in a sentence of its own, why it does not."""

    problem: Callable[[str], str | None]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def checked(text: str) -> str:
            if problem := self.problem(text):
                raise ValueError(problem)
            return text

        return core_schema.no_info_after_validator_function(checked, handler(source))


def _has_no_null(text: str) -> bool:
    return "\0" not in text


def _says_something(text: str) -> bool:
    return bool(text.strip()) and _has_no_null(text)


AnyText = Annotated[str, Must("a text", "texts", _has_no_null)]  # may be empty
Text = Annotated[str, Must("a text", "texts", _says_something)]
OneOrMore = Annotated[tuple[T, ...], Alone()]  # one value, or a list: a tuple of them
Texts = Annotated[OneOrMore[Text], MinLen(1)]
Each = Union[T, tuple[T, ...]]  # noqa: UP007 - one for all, or a list with one for each: see `harness.checks.for_each`
TextList = tuple[Text, ...]
FilePath = Annotated[str, Must("a path", "paths", _says_something), Unless(file_problem)]  # or hf://, pkg://
Folder = Annotated[str, Must("a folder", "folders", _says_something), Unless(path_problem)]
Label = Annotated[str, Unless(label_problem)]  # a name that can be a folder
Scalar = Annotated[str | int | float | bool, Must("a text or a number", "texts or numbers", lambda value: True)]

Number = int | float  # stays an integer where it comes as one: what hashes it tells 1 from 1.0
Threshold = Annotated[Number, Gt(0), Lt(1)]
Margin = Annotated[Number, Ge(0), Le(1)]
UnitInterval = Annotated[float, Ge(0), Le(1)]
Percent = Annotated[float, Ge(0), Le(100)]
Scale = Annotated[float, Ge(0), Le(1e6)]  # a factor, or a weight
Strength = Annotated[float, Ge(0), Le(10)]
GuidanceScale = Annotated[float, Ge(0), Le(100)]
GuidanceOn = Annotated[float, Ge(1), Le(100)]
LearningRate = Annotated[float, Ge(1e-12), Le(10)]
WeightDecay = Annotated[float, Ge(0), Le(10)]
Seed = Annotated[int, Ge(0), Le(2**64 - 1)]
Steps = Annotated[int, Ge(1), Le(1000)]  # of sampling
Iterations = Annotated[int, Ge(1), Le(1_000_000)]
Count = Annotated[int, Ge(1), Le(100_000)]
Images = Annotated[int, Ge(1), Le(1_000_000)]
BatchSize = Annotated[int, Ge(1), Le(1024)]
Call = Annotated[int, Ge(1), Le(1000)]  # a denoiser call, counted from 1
Calls = Annotated[int, Ge(0), Le(1000)]
Window = Literal["calls", "fraction"]  # how a paper's calls of 50 steps are counted: `harness.method.scaled_calls`


def choices(kind: Any) -> tuple[str, ...]:
    """Return the names that a type, or a list of it, allows, null aside; none for a type that is no choice of names."""
    base, extras = _parted(kind)
    named = next((extra.names for extra in extras if isinstance(extra, OneOf)), ())
    if named:
        return named
    if get_origin(base) is Literal:
        return tuple(map(str, get_args(base)))
    if get_origin(base) is tuple:
        return choices(get_args(base)[0])
    parts = [part for part in get_args(base) if part is not type(None)] if _is_union(base) else []
    return choices(parts[0]) if len(parts) == 1 else ()


def expected(kind: Any) -> str:
    """Say what a type takes, as the end of an error: "expected a number from 0 to 1."."""
    parts = _parts(kind)
    return f"expected {', '.join(parts[:-1])}{', or ' if parts[:-1] else ''}{parts[-1]}."


def _parts(kind: Any) -> list[str]:
    base, extras = _parted(kind)
    if _is_union(base) and set(get_args(base)) != {int, float}:
        return [text for part in get_args(base) for text in _parts(part)]
    if any(isinstance(extra, Alone) for extra in extras) and not any(isinstance(extra, Must) for extra in extras):
        item = get_args(base)[0]
        return [*_parts(item), f"a list of {_said(item, many=True)}"]
    return [_said(kind)]


def _said(kind: Any, many: bool = False) -> str:
    """Say a type in words, of one value or of many: "a text", "texts"."""
    base, extras = _parted(kind)
    musts = [extra for extra in extras if isinstance(extra, Must)]
    if musts:
        return musts[-1].many if many else musts[-1].one
    if named := choices(kind):
        return " or ".join(named)
    if _is_union(base) and set(get_args(base)) != {int, float}:
        return " or ".join(_said(part, many) for part in get_args(base))
    if _is_record(base):
        return f"settings ({', '.join(field.name for field in fields(base))})"
    if get_origin(base) in (tuple, list, Sequence):
        return f"{'lists' if many else 'a list'} of {_said(get_args(base)[0], many=True)}"
    name, several = _WORDS.get(get_origin(base) or base, (f"a {getattr(base, '__name__', base)}", f"{base}"))
    return f"{several if many else name}{_range(extras)}"


_WORDS: Mapping[Any, tuple[str, str]] = {
    int: ("an integer", "integers"), float: ("a number", "numbers"), types.UnionType: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "true or false"), type(None): ("null", "null"), Path: ("a path", "paths"),
    dict: ("a mapping", "mappings"), Mapping: ("a mapping", "mappings"), list: ("a list", "lists"),
    tuple: ("a list", "lists"), Any: ("a value", "values"),
}  # fmt: skip


def _range(extras: Iterable[Any]) -> str:
    limits: dict[str, Any] = {}
    for extra in extras:
        for one in extra if isinstance(extra, Interval) else (extra,):
            limits |= {key: getattr(one, key) for kind, key in _LIMITS if isinstance(one, kind)}
    low, high, above, below = (_shown(limits.get(key)) for key in ("ge", "le", "gt", "lt"))
    if low and high:
        return f" from {low} to {high}"
    if above and below:
        return f" between {above} and {below}"
    least, most = f"of at least {low}" if low else f"above {above}" if above else "", ""
    if high or below:
        most = f"of at most {high}" if high else f"below {below}"
    return "".join(f" {text}" for text in (" and ".join(filter(None, (least, most))),) if text)


_LIMITS = ((Ge, "ge"), (Le, "le"), (Gt, "gt"), (Lt, "lt"))


def _shown(limit: Any) -> str:
    return "" if limit is None else f"{limit:g}" if isinstance(limit, float) else str(limit)


def _parted(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its metadata, and the metadata."""
    return (kind.__origin__, kind.__metadata__) if get_origin(kind) is Annotated else (kind, ())


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)
