"""Numbers of whole sets of images, from features in the store. What was computed once is remembered in the cell."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.cells.cell import Cell
from harness.cells.scored import Scored
from harness.lib.atomic import write_atomic
from harness.lib.reading import UnreadableFileError, read_json
from harness.metrics.sets import ReferenceSet, frechet_metric, no_metric, no_set_metrics, set_metrics
from harness.records import Metric, Status

NO_REFERENCE = "the bench has no reference set"
NOT_EXTRACTED = "the reference set could not be extracted"
FILE = "set_metrics.json"
ARITHMETIC = 2  # of harness.metrics.sets: raised when the same features would give other numbers

log = logging.getLogger(__name__)

Features = Sequence[np.ndarray]


def set_scores(scored: Scored, baseline: Scored | None, name: str, remembers: bool = True) -> dict[str, Metric]:
    """Return SET_METRICS against the bench's reference set, and `fid_to_base` against the baseline's images.

    `remembers` false: all is computed, and nothing is written.
    """
    config = next(config for config in scored.cell.evaluators if config["name"] == name)
    features, n_unknown = _features(scored, config)
    metrics = _to_reference(scored.cell, config, features, n_unknown, remembers)
    if baseline:
        base, _ = _features(baseline, config)
        label = f"images of {baseline.cell.method}"
        metrics["fid_to_base"] = (
            _to_base(scored.cell, name, features, ReferenceSet(label, np.concatenate(base)), n_unknown, remembers)
            if base else no_metric(f"no features of the {label}"))  # fmt: skip
    return metrics


def _features(scored: Scored, config: Mapping[str, Any]) -> tuple[Features, int]:
    """Return the features of a cell's images, block by block, and how many images have none."""
    blocks = list(scored.cell.store.features(scored.cell.key_of(config), scored.images))
    n_ok = sum(row.status is Status.OK for row in scored.images.values())
    return [block.features for block in blocks], n_ok - sum(len(block.keys) for block in blocks)


def _to_reference(
    cell: Cell, config: Mapping[str, Any], features: Features, n_unknown: int, remembers: bool
) -> dict[str, Metric]:
    asked, name = cell.reference_set(config), str(config["name"])
    if asked is None:
        return no_set_metrics(NO_REFERENCE)
    reference = asked.features()
    if reference is None:
        problem = asked.problem()
        return no_set_metrics(f"not available: {problem}" if problem else NOT_EXTRACTED)
    seed = cell.spec.seed
    return _remembered(cell.folder if remembers else None, f"{name}/reference",
                       _key(features, reference, seed, n_unknown),
                       lambda: set_metrics(features, reference, name, seed, n_unknown))


def _to_base(
    cell: Cell, name: str, features: Features, base: ReferenceSet, n_unknown: int, remembers: bool
) -> Metric:
    seed = cell.spec.seed
    return _remembered(cell.folder if remembers else None, f"{name}/base", _key(features, base, seed, n_unknown),
                       lambda: {"fid": frechet_metric(features, base, name, seed, n_unknown)})["fid"]


def _key(features: Features, reference: ReferenceSet, seed: int, n_unknown: int) -> str:
    """Name everything that the numbers follow from."""
    digest = hashlib.sha256(repr((ARITHMETIC, reference.name, reference.sha256, seed, n_unknown)).encode())
    for block in features:
        digest.update(repr(block.shape).encode())
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def _remembered(
    folder: Path | None, what: str, key: str, compute: Callable[[], dict[str, Metric]]
) -> dict[str, Metric]:
    """Return what this cell computed of the same features; compute it where there is none, or without a `folder`."""
    if folder is None:
        return compute()
    file = folder / FILE
    known = _read(file)
    metrics = _metrics(known[what].get("metrics")) if known.get(what, {}).get("key") == key else None
    if metrics is not None:
        return metrics
    metrics = compute()
    known[what] = {"key": key, "metrics": {name: asdict(metric) for name, metric in metrics.items()}}
    write_atomic(file, json.dumps(known, indent=1).encode())
    return metrics


def _read(file: Path) -> dict[str, Any]:
    try:
        known = read_json(file) or {}
    except UnreadableFileError as error:
        log.warning("%s Its numbers are computed again.", error)
        return {}
    return {what: entry for what, entry in known.items() if isinstance(entry, dict)}


def _metrics(records: Any) -> dict[str, Metric] | None:
    """Return remembered metrics, None if they are not as they were written."""
    try:
        metrics = {name: Metric(**record) for name, record in records.items()}
    except (AttributeError, TypeError):
        return None
    return metrics if all(_is_sound(metric) for metric in metrics.values()) else None


def _is_sound(metric: Metric) -> bool:
    numbers = (metric.value, metric.ci_low, metric.ci_high, metric.worst_low, metric.worst_high)
    known = all(one is None or (isinstance(one, int | float) and math.isfinite(one)) for one in numbers)
    return known and all(isinstance(one, int) and one >= 0 for one in (metric.n, metric.n_unknown))
