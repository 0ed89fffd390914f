"""Which runs are the same method with other parameters: labels, sweeps, and pairs of safety and fidelity runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.lib.hashing import canonical_json
from harness.report.run import Run

METHOD_KEYS = ("methods", "method")
NOT_PARAMETERS = ("_target_", "name", "description", "paper", "version", "recipe_version")


@dataclass(frozen=True)
class Variant:
    """A method with its parameters on a model. `varying` holds the parameters that differ among its siblings."""

    model: str
    method: str
    identity: str
    label: str
    varying: tuple[tuple[str, Any], ...] = ()


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and lists of mappings as dotted keys; other lists stay values."""
    if isinstance(data, Mapping):
        items = [(str(key), value) for key, value in data.items()]
    elif isinstance(data, list) and data and all(isinstance(item, Mapping) for item in data):
        items = [("" if len(data) == 1 else str(item.get("name", i)), item) for i, item in enumerate(data)]
    else:
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, ".".join(part for part in (prefix, key) if part))
    return flat


def method_parameters(run: Run) -> dict[str, Any]:
    """Return what a run says of its method's parameters, from cell.yaml, else from the summary's settings."""
    settings = (run.summary.get("cell") or {}).get("settings") or {}
    for source in (run.cell, settings):
        for key in METHOD_KEYS:
            if isinstance(source.get(key), Mapping | list):
                flat = flatten(source[key])
                return {k: v for k, v in flat.items() if k.rsplit(".", 1)[-1] not in NOT_PARAMETERS}
    return {}


def variants(runs: Sequence[Run]) -> dict[str, Variant]:
    """Name the variant of every readable run, by cell id."""
    parameters = {run.cell_id: method_parameters(run) for run in runs}
    families = defaultdict(list)
    for run in runs:
        families[run.model, run.method].append(run)
    named: dict[str, Variant] = {}
    for (model, method), family in families.items():
        keys = _sweep_keys(family, parameters)
        for run in family:
            values = tuple((key, parameters[run.cell_id].get(key)) for key in keys)
            identity = canonical_json([model, method, values], other=str)
            label = " ".join([method, *(f"{key.rsplit('.', 1)[-1]}={_short(v)}" for key, v in values)])
            named[run.cell_id] = Variant(model, method, identity, label, values)
    return named


def _sweep_keys(family: Sequence[Run], parameters: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the parameters that differ on one bench; what differs only between benches is not a sweep."""
    benches = {run.bench for run in family}
    return sorted({
        key
        for bench in benches
        for key in _varying([parameters[run.cell_id] for run in family if run.bench == bench])
    })  # fmt: skip


def row_labels(runs: Sequence[Run], named: Mapping[str, Variant]) -> dict[str, str]:
    """Return a label for every run, told apart by settings, else by cell id, where variants are the same."""
    groups = defaultdict(list)
    for run in runs:
        groups[run.bench, named[run.cell_id].identity].append(run)
    labels: dict[str, str] = {}
    for group in groups.values():
        settings = [flatten((run.summary.get("cell") or {}).get("settings") or {}) for run in group]
        keys = _varying(settings) if len(group) > 1 else []
        texts = [" ".join(f"{key.rsplit('.', 1)[-1]}={_short(values.get(key))}" for key in keys) for values in settings]
        for run, text in zip(group, texts, strict=True):
            unique = len(group) == 1 or texts.count(text) == 1
            suffix = text if unique else f"{text} {run.cell_id[:6]}".strip()
            labels[run.cell_id] = f"{named[run.cell_id].label} {suffix}".strip()
    return labels


def newest(runs: Sequence[Run]) -> Run:
    """Return the run to show where several answer the same question: a complete one, the longest, then the newest."""
    whole = float("inf")
    return max(runs, key=lambda run: (run.status == "complete", run.limit or whole, run.created, run.cell_id))


def _varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = sorted({key for row in rows for key in row})
    return [key for key in keys if len({json.dumps(row.get(key), default=str) for row in rows}) > 1]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "\N{EN DASH}".join(_short(item) for item in value) if len(value) == 2 else ",".join(map(_short, value))
    return str(value)
