"""Typed settings of a run and of a bench, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.checks import check_choice, check_integer, check_label, check_mapping, check_number, user_path
from harness.errors import InvalidValueError, unknown_name

Config = Mapping[str, Any]


def _metric(kind: str, primary: Mapping[str, Any]) -> str | None:
    found = primary.get(kind)
    if found is not None and not isinstance(found, str):
        raise InvalidValueError(f"bench.primary.{kind}={found!r}: the name of a metric, or null, is needed.")
    return found


@dataclass(frozen=True)
class OverviewColumn:
    """What a column shows: a metric of a bench, with its paired difference to the baseline if `difference`.

    `training_seconds` is what a method's artifacts took to make; `relative_seconds` the seconds per image of the
    bench, divided by the baseline's.
    """

    title: str
    metric: str
    bench: str | None = None
    difference: bool = False

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> OverviewColumn:
        """Check a column of the configuration. Raises HarnessError."""
        known = ("title", "metric", "bench", "difference")
        if not isinstance(given, Mapping) or "title" not in given or "metric" not in given:
            raise InvalidValueError(f"overview: {given!r} is not a column.",
                                    "It needs title and metric, and usually bench.")
        for key in given:
            if key not in known:
                raise unknown_name("setting of an overview column", str(key), known)
        column = cls(**{str(key): value for key, value in given.items()})
        if column.bench is None and column.metric != "training_seconds":
            raise InvalidValueError(f"overview column {column.title!r} has no bench.")
        return column


@dataclass(frozen=True)
class RunSettings:
    """What the whole run shares."""

    mode: str
    results: str
    limit: int | None
    repeats: int | None
    seed: int
    batch_size: int | None
    shard_size: int | None
    artifact: str | None
    baseline: str | None
    leaderboard: bool
    training_seeds: int = 1
    overview: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_config(cls, config: Config) -> RunSettings:
        def optional(name: str) -> int | None:
            value = config[name]
            return None if value is None else check_integer(name, value, 1)

        if not isinstance(config["leaderboard"], bool):
            raise InvalidValueError(f"leaderboard={config['leaderboard']}: true or false is needed.")
        if not isinstance(config["results"], str) or not config["results"]:
            raise InvalidValueError(f"results={config['results']}: a folder is needed.")
        user_path("results", config["results"])
        return cls(
            mode=check_choice("mode", config["mode"], ("run", "plan")),
            results=config["results"],
            limit=optional("limit"),
            repeats=optional("repeats"),
            seed=check_integer("seed", config["seed"], 0, 2**64 - 1),
            batch_size=optional("batch_size"),
            shard_size=optional("shard_size"),
            artifact=_optional_path(config, "artifact"),
            baseline=config["baseline"],
            leaderboard=config["leaderboard"],
            training_seeds=check_integer("training_seeds", config.get("training_seeds", 1), 1, 100),
            overview=_overview(config.get("overview")),
        )


def _optional_path(config: Config, name: str) -> str | None:
    value = config.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidValueError(f"{name}={value}: a folder is needed.")
    if value is not None:
        user_path(name, value)
    return value


def _overview(columns: Any) -> tuple[Mapping[str, Any], ...]:
    if columns is not None and not isinstance(columns, (list, tuple)):
        raise InvalidValueError(f"overview={columns}: a list of columns is needed.")
    for column in columns or ():
        OverviewColumn.read(column)
    return tuple(columns or ())


@dataclass(frozen=True)
class BenchSettings:
    """How a bench is sampled. None means: as the model says.

    `row` means: as the prompt's row says, else as the model. Benches of one `seed_name` share the noise of equal ids.
    """

    name: str
    version: int
    repeats: int
    num_inference_steps: int | None
    guidance_scale: float | Literal["row"] | None
    guidance_floor: float  # of rows: at 1 guidance is off and methods that edit it cannot act
    guidance_cap: float
    size: int | Literal["row"] | None
    seed_name: str
    unsafe_content: bool
    safety_metric: str | None
    fidelity_metric: str | None
    attack: str | None = None  # "attack": prompts that an attack made; "unattacked": those that one would start from

    @classmethod
    def from_config(cls, config: Config) -> BenchSettings:
        guidance = config.get("guidance_scale")
        steps, size = config.get("num_inference_steps"), config.get("size")
        row_size: Literal["row"] | None = "row" if size == "row" else None
        primary = check_mapping("bench.primary", config.get("primary") or {})
        return cls(
            name=check_label("bench.name", config.get("name")),
            version=check_integer("bench.version", config.get("version", 1), 1),
            repeats=check_integer("bench.repeats", config.get("repeats", 1), 1),
            num_inference_steps=None if steps is None else check_integer("bench.num_inference_steps", steps, 1, 1000),
            guidance_scale=guidance
            if guidance in (None, "row")
            else check_number("bench.guidance_scale", guidance, 0, 100),
            guidance_floor=check_number("bench.guidance_floor", config.get("guidance_floor", 1.01), 0, 1000),
            guidance_cap=check_number("bench.guidance_cap", config.get("guidance_cap", 20.0), 1, 1000),
            size=row_size if size in (None, "row") else check_integer("bench.size", size, 8, 8192),
            seed_name=str(config.get("seed_name") or config["name"]),
            unsafe_content=bool(config.get("unsafe_content", True)),
            safety_metric=_metric("safety", primary),
            fidelity_metric=_metric("fidelity", primary),
            attack=_attack(config),
        )


def _attack(config: Config) -> str | None:
    if config.get("attacks") or config.get("attacked_column"):
        return "attack"
    value = config.get("attack")
    if value not in (None, "attack", "unattacked"):
        raise unknown_name("bench.attack", str(value), ("attack", "unattacked", "null"))
    return None if value is None else str(value)
