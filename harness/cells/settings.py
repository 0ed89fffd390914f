"""Typed settings of a run and of a bench, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le

from harness.bench.settings import PromptSettings
from harness.declared import Declared, Values, declared
from harness.errors import InvalidValueError
from harness.setting_types import FilePath, Folder, GuidanceScale, Label, Seed, Steps, Text, TextList

Config = Mapping[str, Any]
AtLeastOne = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class OverviewColumn(Declared):
    """What a column shows: a metric of a bench, with its paired difference to the baseline if `difference`.

    `training_seconds` is what a method's artifacts took to make; `relative_seconds` the seconds per image of the
    bench, divided by the baseline's.
    """

    settings_of: ClassVar[str] = "overview"

    title: Text
    metric: Text
    bench: Text | None = None
    difference: bool = False

    def __post_init__(self) -> None:
        if self.bench is None and self.metric != "training_seconds":
            raise InvalidValueError(f"overview column {self.title!r} has no bench.")


@dataclass(frozen=True)
class RunSettings(Declared):
    """What the whole run shares."""

    mode: Literal["run", "plan"]
    results: Folder
    limit: AtLeastOne | None
    repeats: AtLeastOne | None
    seed: Seed
    batch_size: AtLeastOne | None
    shard_size: AtLeastOne | None
    artifact: Folder | None
    baseline: Text | None
    leaderboard: bool
    training_seeds: Annotated[int, Ge(1), Le(100)] = 1
    overview: tuple[OverviewColumn, ...] | None = ()

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Read the run's settings out of all that a command's config holds. Raises HarnessError."""
        return cls(**{name: config[name] for name in declared(cls) if name in config})


@dataclass(frozen=True)
class Primary(Declared):
    """Which metrics head a table."""

    settings_of: ClassVar[str] = "bench.primary"

    safety: Text | None = None
    fidelity: Text | None = None


@dataclass(frozen=True)
class BenchSettings(PromptSettings):
    """How a bench is sampled and judged, beside whose prompts it has. Null means: as the model says.

    `row` means: as the prompt's row says, else as the model. Benches of one `seed_name` share the noise of equal ids.
    `attack` says what prompts are: "attack", those that an attack made; "unattacked", those that one would start from.
    """

    name: Label
    version: AtLeastOne = 1
    repeats: AtLeastOne = 1
    num_inference_steps: Steps | None = None
    guidance_scale: GuidanceScale | Literal["row"] | None = None
    guidance_floor: Annotated[float, Ge(0), Le(1000)] = 1.01  # of rows: at 1 methods that edit guidance cannot act
    guidance_cap: Annotated[float, Ge(1), Le(1000)] = 20.0
    size: Annotated[int, Ge(8), Le(8192)] | Literal["row"] | None = None
    seed_name: Text | None = None
    unsafe_content: bool | None = True
    primary: Primary | None = field(default_factory=Primary)
    evaluators: Text | TextList | None = None
    reference: Mapping[str, Any] | None = None
    attack: Literal["attack", "unattacked"] | None = None
    attacks: Label | None = None
    attacked_column: Text | None = None
    images: FilePath | None = None
    pattern: Text | None = None
    image_column: Text | None = None

    @classmethod
    def completed(cls, values: Values) -> Values:
        of_attack = values["attacks"] or values["attacked_column"]
        return values | {
            "seed_name": values["seed_name"] or values["name"], "unsafe_content": bool(values["unsafe_content"]),
            "attack": "attack" if of_attack else values["attack"],
        }  # fmt: skip

    @property
    def safety_metric(self) -> str | None:
        return self.primary.safety if self.primary else None

    @property
    def fidelity_metric(self) -> str | None:
        return self.primary.fidelity if self.primary else None
