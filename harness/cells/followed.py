"""The protocol that a cell follows: what its summary, provenance and tables say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from harness.cells.protocol import STRICT, TWIN, Protocol, Shown, Tables, filled_in
from harness.errors import HarnessError, InvalidValueError


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
        asked = [replace(one, metric=filled_in(one.metric, names)) for one in protocol.metrics]
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
