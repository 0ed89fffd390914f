"""Typed settings of a run and of a bench, checked before anything is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeVar

from harness.errors import InvalidValueError, unknown_name
from harness.files import user_path

Config = Mapping[str, Any]
LABEL_LENGTH = 100
_LABEL = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._+-]{{0,{LABEL_LENGTH - 1}}}", re.ASCII)
Record = TypeVar("Record")


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` if it is an integer in [low, high]. Raises InvalidValueError naming the setting and the range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        span = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise InvalidValueError(f"{name}={value}: an integer {span} is needed.")
    return value


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a float if it is a finite number in [low, high]."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high:
        raise InvalidValueError(f"{name}={value}: a number from {low:g} to {high:g} is needed.")
    return float(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise unknown_name(name, str(value), choices)
    return str(value)


def check_label(name: str, value: Any) -> str:
    """Return `value` if it is a name that can be a folder: of letters, digits and . _ + -, the first no mark."""
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        shown = value if isinstance(value, str) and len(value) <= LABEL_LENGTH else f"{str(value)[:LABEL_LENGTH]}..."
        raise InvalidValueError(f"{name}={shown}: a name of letters, digits and . _ + - is needed, with a letter or "
                                f"digit first and at most {LABEL_LENGTH} characters.")
    return value


def check_file(name: str, value: Any) -> str | None:
    """Return `value` if it is null or the text that names a file."""
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise InvalidValueError(f"{name}={value!r}: a path, or null, is needed.")
    if value is not None:
        user_path(name, value)
    return value


def check_list(name: str, value: Any) -> Sequence[Any]:
    """Return `value` if it is a list."""
    if not isinstance(value, (list, tuple)):
        raise InvalidValueError(f"{name}={value!r}: a list is needed.")
    return value


def check_mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a mapping."""
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{name}={value!r}: settings are needed.")
    return value


def _metric(kind: str, primary: Mapping[str, Any]) -> str | None:
    found = primary.get(kind)
    if found is not None and not isinstance(found, str):
        raise InvalidValueError(f"bench.primary.{kind}={found!r}: the name of a metric, or null, is needed.")
    return found


def check_record(name: str, value: Any, kind: type[Record]) -> Record:
    """Return a record of the dataclass `kind` from a mapping of its fields, or `value` itself if it is one."""
    if isinstance(value, kind):
        return value
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{name}={value!r}: settings are needed: {', '.join(known)}.")
    for key in value:
        if key not in known:
            raise unknown_name(f"setting of {name}", str(key), known)
    own = fields(kind)  # type: ignore[arg-type]
    needed = [f.name for f in own if f.name not in value and f.default is MISSING and f.default_factory is MISSING]
    if needed:
        raise InvalidValueError(f"{name} needs a value for: {', '.join(needed)}.")
    return kind(**value)


def texts_of(value: Any) -> tuple[str, ...]:
    """Return a text, or a list of texts, as a tuple; an empty one for anything else, and where a text is empty."""
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
    return texts if all(isinstance(text, str) and text.strip() for text in texts) else ()


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
    from harness.report.overview import OverviewColumn

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
