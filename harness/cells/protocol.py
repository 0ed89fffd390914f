"""A paper's protocol: what it fixes, what its release leaves open, and its names for our metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MinLen

from harness.declared import Declared
from harness.errors import InvalidValueError, unknown_name
from harness.setting_types import Label, Text, TextList

Settings = Mapping[str, Any]
Tables = Mapping[str, TextList]  # names of tables by the file of results/published that holds them
Unit = Literal["percent", "share", "score", "count"]
STRICT, TWIN = "strict", "twin"  # settings of every protocol; the others are its choices


@dataclass(frozen=True)
class Shown(Declared):
    """A metric of ours by the paper's name: `metric` with {choice} for what a choice says, `published` as papers' are.
    """

    settings_of: ClassVar[str] = "protocol.metrics"

    title: Text
    metric: Text
    definition: Text
    published: Text | None = None
    unit: Unit = "percent"


@dataclass(frozen=True)
class Alternative(Declared):
    """One answer to what a release leaves open: its settings, and the tables and differences that come with it.

    `names` fill in what other texts have in braces, besides the answer itself.
    """

    settings_of: ClassVar[str] = "protocol.choices.alternatives"

    why: Text
    settings: Settings = field(default_factory=dict)
    names: Mapping[str, Text] = field(default_factory=dict)
    published: Tables = field(default_factory=dict)
    differences: TextList = ()


@dataclass(frozen=True)
class Choice(Declared):
    """What a release leaves open, by name."""

    settings_of: ClassVar[str] = "protocol.choices"

    question: Text
    default: Text
    alternatives: Mapping[str, Alternative]


@dataclass(frozen=True)
class Twin(Declared):
    """The protocol on the embedded world: what stands for each of its names, and what it sets besides."""

    settings_of: ClassVar[str] = "protocol.twin"

    models: Mapping[str, Settings]
    names: Mapping[str, Text]  # of benches and evaluators
    metrics: Mapping[str, Text] = field(default_factory=dict)  # that are called otherwise there
    settings: Settings = field(default_factory=dict)
    without: TextList = ()  # settings that the embedded world does not have

    def metric(self, name: str) -> str:
        """Return what stands for a metric: `unsafe_rate/<evaluator>/<category>` by its base and its evaluator."""
        base, *rest = name.split("/")
        return "/".join((self.metrics.get(base, base), *(self.names.get(part, part) for part in rest)))


@dataclass(frozen=True)
class Protocol(Declared):
    """What conf/protocol says: `models` are those of the paper, each with its own settings; the first is the default.

    `free` are settings that anybody may still set, such as where a file is. `sampling` says in words what is fixed
    through the model, such as its own scheduler.
    """

    settings_of: ClassVar[str] = "protocol"

    name: Label
    title: Text
    source: Text
    models: Mapping[str, Settings]
    settings: Settings
    metrics: Annotated[tuple[Shown, ...], MinLen(1)]
    twin: Twin
    differences: TextList = ()
    published: Tables = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)
    free: TextList = ()

    def __post_init__(self) -> None:
        if not self.models or "bench" not in self.settings:
            raise InvalidValueError(f"protocol {self.name} needs models, and settings.bench.")
        if reserved := {STRICT, TWIN} & self.choices.keys():
            raise InvalidValueError(f"protocol {self.name}: {', '.join(sorted(reserved))} cannot be a choice's name.")
        for name, choice in self.choices.items():
            if choice.default not in choice.alternatives:
                raise unknown_name(f"protocol.choices.{name}.default", choice.default, choice.alternatives)

    def chosen(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the answer to every choice. Raises UnknownNameError for a choice or an answer that it does not have.
        """
        for key, value in given.items():
            if key not in self.choices:
                raise unknown_name(f"setting of protocol {self.name}", key, [STRICT, TWIN, *self.choices])
            if value not in self.choices[key].alternatives:
                raise unknown_name(f"protocol.{key}", value, self.choices[key].alternatives)
        return {key: given.get(key, choice.default) for key, choice in self.choices.items()}

    def fixed(self, chosen: Mapping[str, str], model: str, twin: bool) -> dict[str, Any]:
        """Return every setting that it fixes, by the name that a command line has for it."""
        settings = dict(self.settings)
        for one in self.answers(chosen):
            settings |= one.settings
        names = self.names(chosen)
        if not twin:
            return _filled(settings, names) | _filled(self.models.get(model, {}), names)
        kept = {key: value for key, value in settings.items() if key not in self.twin.without}
        there = {_renamed(key, self.twin.names): _renamed(value, self.twin.names)
                 for key, value in _filled(kept, names).items()}
        return there | dict(self.twin.settings) | dict(self.twin.models.get(model, {}))

    def names(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """Return what stands for each {name} in a text: the answers, and what they name."""
        return {**chosen, **{key: name for one in self.answers(chosen) for key, name in one.names.items()}}

    def answers(self, chosen: Mapping[str, str]) -> list[Alternative]:
        """Return the alternatives that are chosen, in the order of the choices."""
        return [self.choices[key].alternatives[value] for key, value in chosen.items()]

    def known_models(self, twin: bool) -> Mapping[str, Settings]:
        """Return the models that it is for."""
        return self.twin.models if twin else self.models


def _filled(settings: Settings, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return settings with each {choice} in a text replaced by its answer."""
    return {filled_in(key, chosen): filled_in(value, chosen) for key, value in settings.items()}


def filled_in(value: Any, chosen: Mapping[str, str]) -> Any:
    """Return a value with each {name} in its texts replaced by what stands for it."""
    if isinstance(value, Mapping):
        return {key: filled_in(one, chosen) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [filled_in(one, chosen) for one in value]
    if not isinstance(value, str):
        return value
    whole = next((answer for key, answer in chosen.items() if value == f"{{{key}}}"), None)
    if whole is not None and whole.isdecimal():
        return int(whole)
    for key, answer in chosen.items():
        value = value.replace(f"{{{key}}}", answer)
    return value


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return a value with names replaced: a whole text, or the parts of one between `/` or `.`."""
    if isinstance(value, Mapping):
        return {key: _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(_renamed(one, names) for one in value))
    if not isinstance(value, str):
        return value
    mark = "/" if "/" in value else "."
    return mark.join(names.get(part, part) for part in value.split(mark))
