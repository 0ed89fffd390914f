"""Numbers that papers report, each with its source, protocol and distance to ours: results/published."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.errors import InvalidValueError, MissingResourceError, unknown_name
from harness.lib.reading import UnreadableFileError, read_yaml

FOLDER = Path("results", "published")
# share: 0 to 1, as our rates are
UNITS: Mapping[str, float] = {"percent": 0.01, "share": 1.0, "score": 1.0, "count": 1.0}
RATES = ("unsafe_rate", "attack_success_rate", "automatic_safety_rate", "expected_max", "deviation_ratio")
METRICS = (*RATES, "target_accuracy", "other_accuracy", "clip_score", "fid", "kid", "lpips", "detections")


@dataclass(frozen=True)
class Protocol:
    """How the numbers were made; None if the source does not say."""

    detector: str | None
    threshold: float | None
    steps: int | None
    images_per_prompt: int | None
    guidance_scale: float | str | None = None
    other: str | None = None


@dataclass(frozen=True)
class Reported:
    """One reported number, in our units: rates from 0 to 1.

    `method` and `model` are names of conf/, None if we have no such one; `label` is the source's own word.
    `evaluators` are those of conf/ that measure by the same rule: it stands beside their numbers only. Empty where
    the source's rule is not known or not ours; None if any judge that heads the bench will do.
    """

    source: str
    table: str
    bench: str
    model: str | None
    method: str | None
    label: str
    metric: str
    value: float
    sd: float | None
    protocol: Protocol
    distance: str
    file: str
    evaluators: tuple[str, ...] | None = None


def read_published(folder: Path) -> list[Reported]:
    """Read every YAML file of a folder, in order of names. Raises HarnessError in one line for a bad one."""
    if not folder.is_dir():
        raise MissingResourceError(f"the folder of published numbers '{folder}' does not exist.", "Give another one.")
    return [number for file in sorted(folder.glob("*.yaml")) for number in read_file(file)]


def read_file(file: Path) -> list[Reported]:
    """Read one file: a source and its tables. Raises InvalidValueError that says where it is wrong."""
    try:
        data = read_yaml(file, unique_keys=True)
    except UnreadableFileError as error:
        raise InvalidValueError(f"{file.name}: {error.reason}.") from None
    if data is None:
        raise MissingResourceError(f"{file} is no longer there.")
    _keys(data, ("source", "tables"), (), file.name)
    source = _text(data["source"], f"{file.name}: source")
    numbers = [
        number
        for index, table in enumerate(_list(data["tables"], f"{file.name}: tables"))
        for number in _read_table(table, source, f"{file.name}: tables[{index}]", file.name)
    ]
    _refuse_twins(numbers, file.name)
    return numbers


def _read_table(table: Any, source: str, where: str, file: str) -> Iterator[Reported]:
    _keys(table, ("name", "bench", "model", "protocol", "distance", "columns", "rows"), ("evaluators",), where)
    rule = _rule(table.get("evaluators"), f"{where}.evaluators")
    columns = _columns(table["columns"], f"{where}.columns")
    protocol = _protocol(table["protocol"], f"{where}.protocol")
    name, bench = (_text(table[key], f"{where}.{key}") for key in ("name", "bench"))
    distance, model = _text(table["distance"], f"{where}.distance"), _optional(table["model"], f"{where}.model")
    for index, row in enumerate(_list(table["rows"], f"{where}.rows")):
        place = f"{where}.rows[{index}]"
        _keys(row, ("label", "method"), ("model", *columns), place)
        of_row = _optional(row["model"], f"{place}.model") if "model" in row else model
        method, label = _optional(row["method"], f"{place}.method"), _text(row["label"], f"{place}.label")
        if not any(column in row for column in columns):
            raise InvalidValueError(f"{place}: it has none of {', '.join(columns)}.")
        for metric in (column for column in columns if column in row):
            value, sd = _value(row[metric], UNITS[columns[metric]], f"{place}.{metric}")
            if metric.split("/")[0] in RATES and not 0 <= value <= 1:
                raise InvalidValueError(f"{place}.{metric}={row[metric]}: a rate is from 0 to 1, or 100 percent.")
            yield Reported(source, name, bench, of_row, method, label, metric, value, sd, protocol, distance, file,
                           rule.get(metric.split("/")[0]) if rule is not None else None)


def _rule(data: Any, where: str) -> dict[str, tuple[str, ...]] | None:
    """Read which evaluators measure a metric as the source does: `{unsafe_rate: [inappropriate]}`."""
    if data is None:
        return None
    if not isinstance(data, Mapping):
        raise InvalidValueError(f"{where}: a mapping of metrics to lists of evaluators is needed.")
    for metric, names in data.items():
        if metric not in METRICS:
            raise unknown_name(f"metric at {where}", str(metric), METRICS)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidValueError(f"{where}.{metric}={names!r}: a list of evaluators is needed.")
    return {str(metric): tuple(names) for metric, names in data.items()}


def _columns(data: Any, where: str) -> dict[str, str]:
    if not isinstance(data, Mapping) or not data:
        raise InvalidValueError(f"{where}: metrics with their units are needed.")
    for metric, unit in data.items():
        if str(metric).split("/")[0] not in METRICS:
            raise unknown_name(f"metric at {where}", str(metric), METRICS)
        if unit not in UNITS:
            raise unknown_name(f"unit of {metric} at {where}", str(unit), UNITS)
    return {str(metric): str(unit) for metric, unit in data.items()}


def _protocol(data: Any, where: str) -> Protocol:
    optional = ("guidance_scale", "other")
    _keys(data, [f.name for f in fields(Protocol) if f.name not in optional], optional, where)
    for key in ("threshold", "steps", "images_per_prompt"):
        if data[key] is not None:
            _number(data[key], f"{where}.{key}")
    for key in ("detector", "other"):
        _optional(data.get(key), f"{where}.{key}")
    return Protocol(**data)


def _value(data: Any, scale: float, where: str) -> tuple[float, float | None]:
    """Read a number, or a list of a mean and its standard deviation."""
    if isinstance(data, list):
        if len(data) != 2:
            raise InvalidValueError(f"{where}={data}: a number, or a list of mean and standard deviation, is needed.")
        return _number(data[0], where) * scale, _number(data[1], where) * scale
    return _number(data, where) * scale, None


def _number(data: Any, where: str) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float) or not math.isfinite(data):
        raise InvalidValueError(f"{where}={data!r}: a number is needed.")
    return float(data)


def _text(data: Any, where: str) -> str:
    if not isinstance(data, str) or not data.strip():
        raise InvalidValueError(f"{where}={data!r}: a text is needed.")
    return " ".join(data.split())


def _optional(data: Any, where: str) -> str | None:
    return None if data is None else _text(data, where)


def _list(data: Any, where: str) -> Sequence[Any]:
    if not isinstance(data, list) or not data:
        raise InvalidValueError(f"{where}: a list is needed.")
    return data


def _keys(data: Any, needed: Sequence[str], optional: Sequence[str], where: str) -> None:
    if not isinstance(data, Mapping):
        raise InvalidValueError(f"{where}: a mapping is needed with {', '.join(needed)}.")
    for key in data:
        if key not in needed and key not in optional:
            raise unknown_name(f"key at {where}", str(key), [*needed, *optional])
    absent = [key for key in needed if key not in data]
    if absent:
        raise InvalidValueError(f"{where} needs: {', '.join(absent)}.")


def _refuse_twins(numbers: Sequence[Reported], file: str) -> None:
    seen = set()
    for one in numbers:
        key = (one.table, one.bench, one.model, one.label, one.metric)
        if key in seen:
            raise InvalidValueError(f"{file}: {one.table}: {one.label} has {one.metric} twice.")
        seen.add(key)
