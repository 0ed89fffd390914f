"""A paper's protocol: what it fixes, what its release leaves open, and its names for our metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import MinLen

from harness.declared import Declared
from harness.errors import HarnessError, InvalidValueError, unknown_name
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

    def __post_init__(self) -> None:
        if self.default not in self.alternatives:
            raise unknown_name("alternative of a protocol", self.default, self.alternatives)


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


@dataclass(frozen=True)
class Followed:
    """The protocol that a cell follows, as its summary tells it. `departures` are settings that it does not fix so.

    `bench` is the paper's, by which its numbers are found; `judges` are fingerprints of the evaluators behind
    `metrics`, by name, once they are known.
    """

    name: str
    title: str
    source: str
    bench: str
    twin: bool
    choices: Mapping[str, str]
    metrics: tuple[Shown, ...]
    published: Tables
    differences: tuple[str, ...]
    strict: bool = True
    departures: tuple[str, ...] = ()
    judges: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, protocol: Protocol, chosen: Mapping[str, str], twin: bool, strict: bool) -> Self:
        """Return what a cell follows of a protocol with these choices."""
        names = protocol.names(chosen)
        asked = [replace(one, metric=_fill(one.metric, names)) for one in protocol.metrics]
        metrics = tuple(replace(one, published=one.published or _base(one.metric),
                                metric=protocol.twin.metric(one.metric) if twin else one.metric) for one in asked)
        published = dict(protocol.published)
        differences = [*protocol.differences]
        for answer in protocol.answers(chosen):
            published |= answer.published
            differences += answer.differences
        bench = str(protocol.fixed(chosen, "", twin=False)["bench"])
        return cls(protocol.name, protocol.title, protocol.source, bench, twin, dict(chosen), metrics, published,
                   tuple(differences), strict)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """Read what a summary tells. Raises HarnessError, TypeError or KeyError where it is not that."""
        metrics = tuple(Shown.from_config(one) for one in data["metrics"])
        known: dict[str, Any] = {name: str(data[name]) for name in ("name", "title", "source", "bench")}
        known |= {name: bool(data[name]) for name in (TWIN, STRICT)}
        tables = {str(file): tuple(map(str, names)) for file, names in data["published"].items()}
        choices = {str(key): str(one) for key, one in data["choices"].items()}
        return cls(**known, choices=choices, metrics=metrics, published=tables,
                   differences=tuple(map(str, data["differences"])), departures=tuple(map(str, data["departures"])),
                   judges=dict(data.get("judges") or {}))

    def departing(self, *departures: str) -> Self:
        """Return it with what a cell does not do as it says. Raises InvalidValueError if it is strict."""
        if departures and self.strict:
            raise InvalidValueError(f"protocol {self.name}: {'; '.join(departures)}: that is another protocol.",
                                    f"Leave it out, or add protocol.{STRICT}=false: the row then says so.")
        return replace(self, departures=(*self.departures, *departures))

    @property
    def label(self) -> str:
        """Its name with what was chosen and whether it is the twin: `sdd_body (concepts=nudity)`."""
        told = [*(f"{key}={value}" for key, value in self.choices.items()), *(["twin"] if self.twin else [])]
        return f"{self.name} ({', '.join(told)})" if told else self.name

    @property
    def text(self) -> str:
        """What a row says of it: its label, and how it departs from it."""
        return f"{self.label}, not strict: {'; '.join(self.departures)}" if self.departures else self.label

    def told(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def told_in_summary(
    own: Sequence[Followed], before: Mapping[str, Any], settings: Mapping[str, Any], evaluators: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the protocols that a cell's summary tells of, by label.

    Those of this run, and those of earlier ones that still hold: the same images, judged as then. `before` is the
    summary of the earlier run, `settings` and `evaluators` are what this one says.
    """
    prints = {name: one.get("fingerprint") for name, one in evaluators.items()}
    cell = before.get("cell")
    then = cell.get("settings") if isinstance(cell, Mapping) else None
    then = then if isinstance(then, Mapping) else {}
    same = all(then.get(key) == settings.get(key) for key in ("limit", "repeats"))
    kept = {one.label: one.told() for one in read_told(before)
            if same and all(prints.get(judge) == known for judge, known in one.judges.items())}
    return kept | {one.label: replace(one, judges=_judges(one, evaluators)).told() for one in own}


def read_told(summary: Mapping[str, Any]) -> list[Followed]:
    """Return the protocols that a summary tells of; what is not as a run writes it counts as none."""
    told, found = summary.get("protocols"), []
    for one in told.values() if isinstance(told, Mapping) else ():
        try:
            found.append(Followed.read(one))
        except (HarnessError, TypeError, KeyError, AttributeError, ValueError):
            continue
    return found


def _judges(followed: Followed, evaluators: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of the evaluators behind a protocol's metrics, by name."""
    return {name: str(one["fingerprint"]) for name, one in evaluators.items() if one.get("fingerprint")
            and any(measured_by(shown.metric, name, evaluators) for shown in followed.metrics)}


def protocols_said(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what provenance says of a summary's protocols: what was chosen, and the departures."""
    return {one.label: {"name": one.name, "choices": dict(one.choices), TWIN: one.twin, STRICT: one.strict,
                        "departures": list(one.departures)} for one in read_told(summary)}


def measured_by(metric: str, evaluator: str, evaluators: Mapping[str, Any]) -> bool:
    """Return whether an evaluator of a summary is the one behind a metric."""
    base, _, rest = metric.partition("/")
    if rest.split("/")[0] in evaluators:
        return rest.split("/")[0] == evaluator
    return base in (evaluators[evaluator].get("metrics") or ())


def _base(metric: str) -> str:
    return metric.partition("/")[0]


def _filled(settings: Settings, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return settings with each {choice} in a text replaced by its answer."""
    return {_fill(key, chosen): _fill(value, chosen) for key, value in settings.items()}


def _fill(value: Any, chosen: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _fill(one, chosen) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(one, chosen) for one in value]
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
