"""Whose sampling settings a cell takes: the command line's, the bench's, its method's release's, the model's.

A preset may propose how its release samples (`release_sampling`: scheduler, steps, guidance scale). It is followed
unless the command line or the bench says otherwise, or `sampling=model` asks for one sampling for all methods. What a
method is compared with is sampled as the method is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar

from harness.checks import check_choice
from harness.declared import Declared
from harness.models.loaded import SCHEDULERS
from harness.setting_types import GuidanceScale, OneOf, Steps

Config = Mapping[str, Any]
KEY, CHOICES = "release_sampling", ("method", "model")
PIPELINES = "its pipeline's own"


@dataclass(frozen=True)
class Proposal(Declared):
    """How a method's release samples; null: it says nothing of that."""

    settings_of: ClassVar[str] = "method.release_sampling"

    scheduler: Annotated[str, OneOf(tuple(SCHEDULERS))] | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: GuidanceScale | None = None


KEYS = tuple(setting.name for setting in fields(Proposal))


@dataclass(frozen=True)
class Sampling:
    """What was taken from a method, by setting, and what a plan says of it and of what was not taken."""

    taken: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def unsaid(self) -> Sampling:
        """Return it for a cell that another one brings along: that one's plan says it."""
        return replace(self, notes=())


def split_proposal(method: Config) -> tuple[dict[str, Any], Proposal]:
    """Return a method's config without its proposal, and the proposal."""
    return {key: value for key, value in method.items() if key != KEY}, Proposal.from_config(method.get(KEY) or {})


def agreed(model: Config, bench: Config, proposals: Sequence[tuple[str, Proposal]], given: Collection[str],
           choice: Any) -> Sampling:
    """Settle who is followed, setting by setting. `proposals` are of the methods by name, left to right.

    `given` are the settings of the model that the command line or an experiment names. Of methods that propose
    differently the first is followed.
    """
    check_choice("sampling", choice, CHOICES)
    followed: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for key in KEYS:
        wanted = [(name, value) for name, one in proposals if (value := getattr(one, key)) is not None]
        if not wanted:
            continue
        name, value = wanted[0]
        against = _against(key, value, model, bench, given, choice)
        if against is None:
            followed.setdefault(name, {})[key] = value
            notes += [f"{other}'s release samples with {key}={its}: {name}, to its left, takes precedence"
                      for other, its in wanted[1:] if its != value]
        elif against:
            notes.append(f"{name}'s release samples with {key}={_shown(value)}: {against}")
    taken = {key: value for settings in followed.values() for key, value in settings.items()}
    return Sampling(taken, (*(_said(name, settings, model) for name, settings in followed.items()), *notes))


def _against(key: str, value: Any, model: Config, bench: Config, given: Collection[str], choice: str) -> str | None:
    """Say what stands against a proposal; None if it is followed, "" where there is no difference to speak of."""
    of_bench = bench.get(key) if key != "scheduler" else None
    if (model.get(key) if of_bench is None else of_bench) == value:
        return ""
    if of_bench is not None:
        return (f"bench {bench.get('name')} sets {_shown(of_bench)}, which takes precedence; to follow the release: "
                f"bench.{key}={_shown(value)}")
    if key in given:
        return f"model.{key}={_shown(model.get(key))} was set, which takes precedence"
    return f"sampling=model keeps {_shown(model.get(key))}" if choice == "model" else None


def _said(name: str, taken: Config, model: Config) -> str:
    told = ", ".join(f"{key}={_shown(value)}" for key, value in taken.items())
    from_model = ", ".join(_shown(model.get(key)) for key in taken)
    return (f"{name} and its baseline are sampled as in its release: {told} (model {model.get('name')}: {from_model}"
            f"); sampling=model uses the model's, model.{next(iter(taken))}=... another")


def _shown(value: Any) -> str:
    return PIPELINES if value is None else f"{value:g}" if isinstance(value, float) else str(value)
