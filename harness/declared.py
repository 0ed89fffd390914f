"""Settings declared once: what a class's annotations say of its settings is checked whenever an instance is made.

The annotations are those of a dataclass's fields, or of the arguments of `__init__`. From a config or in Python: what
does not fit is one line that names the setting, and nothing is made. pydantic reads the types, strictly (no text is a
number), but for lists, of which tuples may be made. It is imported with the first instance.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from abc import ABCMeta
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from harness.errors import HarnessError, IncompatibleError, InvalidValueError, unknown_name
from harness.setting_types import choices, expected

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

Values = dict[str, Any]


class DeclaredType(ABCMeta):
    """Makes instances of values that were checked."""

    def __call__(cls, *given: Any, **named: Any) -> Any:
        return super().__call__(**_settled(cls, given, named))

    @property
    def __signature__(cls) -> inspect.Signature:
        """What `inspect.signature` shows: the arguments of `__init__`, not those of the method above."""
        made = inspect.signature(cls.__init__) if cls.__init__ is not object.__init__ else inspect.Signature()  # type: ignore[misc]
        return made.replace(parameters=list(made.parameters.values())[1:])


class Declared(metaclass=DeclaredType):
    """A class whose annotations declare its settings: see `harness.setting_types` for types with their ranges.

    What concerns several settings is checked in `__post_init__`, by when each of them is checked.
    """

    settings_of: ClassVar[str] = ""  # before a setting's name in errors: `method`; {name} stands for a setting's value

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Make one of what a config says. Raises HarnessError for what is no mapping of its settings."""
        if not isinstance(config, Mapping):
            raise InvalidValueError(f"{cls.settings_of}={_shown(config)}: {expected(cls)}")
        return cls(**{str(key): value for key, value in config.items()})

    @classmethod
    def completed(cls, values: Values) -> Values:
        """Return checked values with what follows from them filled in, such as a preset's."""
        return values

    @classmethod
    def check_class(cls, given: Collection[str] = ()) -> None:
        """Raise IncompatibleError, saying what to write, where the class itself is not complete.

        `given` are names of settings that a config gives it.
        """
        if absent := sorted(getattr(cls, "__abstractmethods__", ())):
            raise IncompatibleError(f"{class_name(cls)} lacks {', '.join(absent)}.", "Write them.")
        for base in cls.__mro__:
            names = _annotations(base)
            if names and dataclasses.is_dataclass(base) and "__dataclass_fields__" not in vars(base):
                raise _no_dataclass(base, names[0])
        for name in given:
            if name in _annotations(cls) and name not in inspect.signature(cls).parameters:
                raise _no_dataclass(cls, name)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Let a class be the type of another's setting: given as an instance, or as a mapping of its settings."""
        from pydantic_core import core_schema

        def made(value: Any, read: Any) -> Any:
            return value if isinstance(value, cls) else cls(**read(value))

        return core_schema.no_info_wrap_validator_function(made, handler.generate_schema(_shape(cls)))


def class_name(cls: type) -> str:
    """Return a class as errors name it."""
    return f"class {cls.__module__}.{cls.__qualname__}"


def _no_dataclass(cls: type, setting: str) -> IncompatibleError:
    """Build the error for a class whose annotated `setting` is none for lack of a decorator."""
    return IncompatibleError(f"{class_name(cls)} is not a dataclass, so {setting} is not a setting.",
                             f"Write @dataclass(frozen=True) above class {cls.__name__}.")


def _annotations(cls: type) -> list[str]:
    """Return the names that a class itself annotates, class variables aside."""
    return [name for name, kind in inspect.get_annotations(cls).items() if "ClassVar" not in str(kind)]


@cache
def declared(cls: type) -> Mapping[str, Any]:
    """Return the type of each setting of a class. Raises IncompatibleError for an annotation that cannot be read."""
    return {name: _annotated(cls, name) for name in inspect.signature(cls).parameters}


def _annotated(cls: type, name: str) -> Any:
    owner: Any = next((base for base in cls.__mro__ if "__dataclass_fields__" in vars(base)
                       and name in inspect.get_annotations(base)), None)
    holder = owner or cls.__init__  # type: ignore[misc]
    scope = vars(sys.modules[owner.__module__]) if owner else getattr(holder, "__globals__", {})
    text = holder.__annotations__.get(name, Any)
    try:
        return get_type_hints(SimpleNamespace(__annotations__={name: text}), scope, include_extras=True)[name]
    except Exception as error:  # an annotation is an expression: it can raise anything
        raise IncompatibleError(f"{class_name(cls)}: the type {text} of {name} cannot be read: {error}.",
                                "Import what it names where it is read at run time, not under TYPE_CHECKING.") from None


def _settled(cls: Any, given: Sequence[Any], named: Mapping[str, Any]) -> Values:
    """Return the values that `__init__` is to get. Raises HarnessError: one line that names the setting."""
    cls.check_class()
    names = list(declared(cls))
    if len(given) > len(names):
        raise TypeError(f"{class_name(cls)} takes {len(names)} settings, and {len(given)} are given")
    values = {**_defaults(cls), **dict(zip(names, given, strict=False)), **named}
    from pydantic import ValidationError

    try:
        read = _adapter(cls).validate_python(values)
    except ValidationError as error:
        raise _refusal(cls, values, error) from None
    return cls.completed(read)


def _defaults(cls: type) -> Values:
    if not dataclasses.is_dataclass(cls):
        given = inspect.signature(cls).parameters.values()
        return {one.name: one.default for one in given if one.default is not one.empty}
    fields = [field for field in dataclasses.fields(cls) if field.init]
    made = {field.name: field.default_factory() for field in fields if field.default_factory is not dataclasses.MISSING}
    return made | {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


@cache
def _adapter(cls: type) -> TypeAdapter[Values]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        return TypeAdapter(_shape(cls))
    except PydanticSchemaGenerationError as error:
        raise IncompatibleError(f"{class_name(cls)}: {str(error).splitlines()[0]}", "Annotate another type.") from None


@cache
def _shape(cls: type) -> Any:
    """Return the typed dictionary of a class's settings."""
    from typing import Required

    from pydantic import ConfigDict, with_config
    from typing_extensions import TypedDict

    defaults = _defaults(cls)
    kinds = {name: _lenient(kind) if name in defaults else Required[_lenient(kind)]
             for name, kind in declared(cls).items()}
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    typed: Any = TypedDict
    return with_config(config)(typed(cls.__name__, kinds, total=False))


def _lenient(kind: Any) -> Any:
    """Return a type with tuples and sets that take lists, and with paths and enums that take texts."""
    from pydantic import Strict

    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return Annotated[(_lenient(args[0]), *args[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(map(_lenient, args))]  # noqa: UP007 - of types that are computed
    if origin in (tuple, set, frozenset):
        return Annotated[origin[tuple(arg if arg is ... else _lenient(arg) for arg in args)], Strict(False)]
    if args and isinstance(origin, type) and issubclass(origin, (list, dict, Mapping, Sequence)):
        return origin[tuple(map(_lenient, args))]  # type: ignore[index]
    if isinstance(kind, type) and issubclass(kind, (Path, Enum, tuple, set, frozenset)):
        return Annotated[kind, Strict(False)]
    return kind


def _refusal(cls: type[Declared], values: Values, error: ValidationError) -> HarnessError:
    """Say the first fault of all, unknown names first: they may be what a missing one was meant to be."""
    faults = error.errors(include_url=False)
    order = ("extra_forbidden", "invalid_key", "missing")
    fault: Any = min(faults, key=lambda one: order.index(one["type"]) if one["type"] in order else len(order))
    if fault["type"] in order:
        inside = _Place.of(cls, values, fault["loc"][:-1])
        if fault["type"] != "missing":
            return unknown_name(f"setting of {inside.name}", str(fault["loc"][-1]), declared(inside.holder or cls))
        absent = [str(one["loc"][-1]) for one in faults
                  if one["type"] == "missing" and one["loc"][:-1] == fault["loc"][:-1]]
        return InvalidValueError(f"{inside.name} needs a value for: {', '.join(absent)}.")
    place = _Place.of(cls, values, fault["loc"])
    if names := choices(place.kind):
        return unknown_name(place.name, str(fault["input"]), names)
    said = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else expected(place.kind)
    return InvalidValueError(f"{place.name}={_shown(place.value)}: {said}")


@dataclasses.dataclass(frozen=True)
class _Place:
    """A setting in what was given: its full name, its type, its value, and the class of its settings, if any."""

    name: str
    kind: Any
    value: Any
    holder: type | None

    @classmethod
    def of(cls, top: type[Declared], values: Values, loc: Sequence[int | str]) -> _Place:
        """Follow the names and numbers by which pydantic says where a fault is."""
        prefix = top.settings_of.format(name=values.get("name"))
        place = cls(prefix, top, values, top)
        for step in loc:
            inner = declared(place.holder) if place.holder else {}
            if isinstance(step, int) and place.holder and isinstance(place.value, (list, tuple)):
                place = cls(f"{place.name}[{step}]", place.holder, place.value[step], place.holder)
            elif step in inner:
                kind = inner[str(step)]
                place = cls(f"{place.name}.{step}".strip("."), kind, place.value.get(step), _record_in(kind))
        return dataclasses.replace(place, name=place.name or class_name(top))


def _record_in(kind: Any) -> type | None:
    """Return the declared class that a type is, or is a list of, if any."""
    if isinstance(kind, DeclaredType):
        return kind
    return next((record for part in get_args(kind) if (record := _record_in(part))), None)


def _shown(value: Any) -> str:
    blank = isinstance(value, str) and (not value or value != value.strip())
    text = "null" if value is None else repr(value) if blank else str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
