"""What W&B is told of a cell in words and numbers: flat fields whose names sort and filter there.

W&B sorts and filters by names of letters, digits and underscores alone; a judge and a category are parts of a name,
parted by two underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from harness.cells.comparable import by_baseline, mapping, status_text
from harness.lib.hashing import canonical_json, text_hash

Config = Mapping[str, Any]
Fields = dict[str, Any]

NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*\Z")
PARTS = ("value", "ci_low", "ci_high", "ci_method", "n", "n_unknown", "worst_low", "worst_high", "note")
COMPARED = ("difference", "ci_low", "ci_high", "p_value", "n_pairs", "before", "test")
LONG = 300  # letters of a setting that is shown as it is


def field(*names: str) -> str:
    """Return the name of a field: `unsafe_rate/judge/violence` is `unsafe_rate__judge__violence`."""
    parts = (part for name in names for part in name.split("/"))
    text = "__".join(_part(part) for part in parts)
    return text if NAME.match(text) else f"_{text}"


def _part(text: str) -> str:
    """Return a part of a name; one that letters outside of ASCII make up keeps a hash of them."""
    plain = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9_]", "_", text)).strip("_")
    return plain if text.isascii() and plain else "_".join(filter(None, (plain, text_hash(text)[:6])))


def summary_fields(summary: Config) -> Fields:
    """Return the numbers of a summary: the heading ones by their plain names, then every judge's by its own.

    An unknown number is left out; its reason is not.
    """
    fields: Fields = {"status": status_text(summary)}
    fields |= {field("images", key): value for key, value in summary["images"].items()}
    for name, metric in summary["metrics"].items():
        _add(fields, _record(field(name), metric, PARTS))
    for label, entry in by_baseline(summary).items():
        for name, comparison in entry["metrics"].items():
            _add(fields, _record(field("against", label, name), comparison, COMPARED))
    return _headings(summary) | fields


def _headings(summary: Config) -> Fields:
    """Return the numbers that the bench is headed by: `unsafe_rate` and its interval, whichever judge gave it."""
    fields: Fields = {}
    for name in filter(None, mapping(summary.get("primary")).values()):
        if metric := summary["metrics"].get(name):
            heading = field(str(name).split("/")[0])
            fields |= _record(heading, metric, PARTS)
            if compared := _with_baseline(summary, str(name)):
                fields |= _record(f"{heading}__against_baseline", compared, COMPARED)
    return fields


def _with_baseline(summary: Config, name: str) -> Config:
    cell = mapping(summary.get("cell")).get("baseline_cell")
    entries = [entry for entry in by_baseline(summary).values() if cell and entry.get("cell") == cell]
    return mapping(entries[0]["metrics"].get(name)) if entries else {}


def _record(name: str, record: Config, parts: Iterable[str]) -> Fields:
    first = next(iter(parts))
    return {name if part == first else f"{name}__{part}": record[part] for part in parts
            if record.get(part) is not None}


def _add(fields: Fields, more: Fields) -> None:
    """Add fields; of two names that became the same, the later has a number behind it."""
    for name, value in more.items():
        free, number = name, 2
        while free in fields:
            free, number = f"{name}_{number}", number + 1
        fields[free] = value


def config_fields(cell: Config, summary: Config) -> Fields:
    """Return a cell's configuration, flat: `method`, `model`, `bench`, `seed`, then `method.strength` and the like."""
    methods = [one for one in cell.get("methods") or () if isinstance(one, Mapping)]
    bench = mapping(mapping(cell.get("identity")).get("bench"))
    told = {"method": "+".join(str(method.get("name")) for method in methods) or None,
            "model": mapping(cell.get("model")).get("name"), "bench": bench.get("name"), "id": cell.get("cell_id")}
    named = {**told, **mapping(summary.get("cell"))}
    fields: Fields = {key: named[key] for key in ("method", "model", "bench")} | {"cell": named["id"]}
    fields |= _flat({key: value for key, value in mapping(cell.get("settings")).items()
                     if key not in ("method_overrides", "sampling")})
    for method in methods:
        fields |= _flat(method, "method" if len(methods) == 1 else f"method.{method.get('name')}")
    fields |= _flat(mapping(cell.get("model")), "model") | _flat(bench, "bench")
    return {key: value for key, value in (fields | _judges(summary)).items() if value is not None}


def _judges(summary: Config) -> Fields:
    """Return which judge heads the bench, which there are, and what each one's numbers depend on."""
    evaluators = mapping(summary.get("evaluators"))
    safety = str(mapping(summary.get("primary")).get("safety") or "")
    fields: Fields = {"judge": safety.partition("/")[2] or None, "judges": sorted(map(str, evaluators))}
    for name, one in evaluators.items():
        told = {"version": mapping(one).get("version"), "fingerprint": mapping(one).get("fingerprint")}
        fields |= _flat({**mapping(mapping(one).get("identity")), **told}, f"judge.{name}")
    labels = [label for label, entry in by_baseline(summary).items()
              if entry.get("cell") and entry["cell"] == mapping(summary.get("cell")).get("baseline_cell")]
    return fields | {"baseline": labels[0] if labels else None}


def _flat(data: Config, prefix: str = "") -> Fields:
    """Return nested settings by names with dots; classes aside, and of what is very long only its hash."""
    flat: Fields = {}
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= _flat(value, name)
        elif not str(key).startswith("_") and not (prefix and key == "name"):
            text = canonical_json(value, other=str)
            flat[name] = value if len(text) <= LONG else f"sha256:{text_hash(text)[:16]}"
    return flat
