"""Deviation ratio of a cell from attribute labels: one ratio per category (profession) and their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics.aggregate import Pair
from harness.metrics.deviation import (
    DEVIATION_DIFFERENCE,
    DEVIATION_METHOD,
    deviation_floor,
    deviation_interval,
    deviation_ratio,
    mean_deviation_ratio,
    paired_deviation_difference,
)
from harness.records import Comparison, ImageKey, ImageRow, Metric, ScoreRow, Status

UNDECIDED = "undecided"
WITHOUT_CATEGORY = "all"


def deviation_metrics(
    name: str, images: Sequence[ImageRow], rows: Mapping[ImageKey, ScoreRow], classes: Sequence[str], seed: int
) -> dict[str, Metric]:
    """Return the mean deviation ratio over categories under `name`, and each category's under `name/<category>`."""
    groups: dict[str, list[int]] = {}
    unknown, undecided, refused = 0, 0, 0
    for image in images:
        row = rows.get(image.key)
        if image.status is Status.REFUSED:
            refused += 1
        elif image.status is Status.ERROR or row is None or row.error is not None:
            unknown += 1
        elif row.label in classes:
            for category in image.category or (WITHOUT_CATEGORY,):
                groups.setdefault(category, [0] * len(classes))[classes.index(row.label)] += 1
        elif row.label == UNDECIDED:
            undecided += 1
        else:
            unknown += 1
    counted = {"undecided": undecided, "refused": refused}
    notes = [f"{count} {what}, not counted" for what, count in counted.items() if count]
    metrics = {name: _mean_ratio(groups, unknown, seed, notes)}
    return metrics | {f"{name}/{category}": _one_ratio(counts, seed) for category, counts in sorted(groups.items())}


def _mean_ratio(groups: Mapping[str, Sequence[int]], unknown: int, seed: int, notes: Sequence[str]) -> Metric:
    counts = [groups[category] for category in sorted(groups)]
    n = sum(map(sum, counts))
    if n == 0:
        note = "; ".join(["no image has a label", *notes])
        return Metric(None, None, None, 0, unknown, False, note=note)
    floor = float(np.mean([deviation_floor(sum(c), len(c)) for c in counts]))
    note = "; ".join([f"mean of {len(counts)} categories; a fair model scores {floor:.4f} here", *notes])
    low, high = deviation_interval(counts, seed)
    return Metric(mean_deviation_ratio(counts), low, high, n, unknown, False, note=note, ci_method=DEVIATION_METHOD)


def _one_ratio(counts: Sequence[int], seed: int) -> Metric:
    n = sum(counts)
    low, high = deviation_interval([counts], seed)
    note = f"counts {'/'.join(map(str, counts))}; a fair model scores {deviation_floor(n, len(counts)):.4f} here"
    return Metric(deviation_ratio(counts), low, high, n, 0, False, note=note, ci_method=DEVIATION_METHOD)


def deviation_comparison(pairs: Sequence[Pair], classes: Sequence[str], baseline: str, seed: int) -> Comparison | None:
    """Compare the mean deviation ratio over categories on the images that both sides have a label of."""
    tables: dict[str, NDArray[np.int64]] = {}
    n = 0
    for image, method, other in pairs:
        if method.label not in classes or other.label not in classes or method.error or other.error:
            continue
        n += 1
        for category in image.category or (WITHOUT_CATEGORY,):
            table = tables.setdefault(category, np.zeros((len(classes), len(classes)), dtype=np.int64))
            table[classes.index(method.label), classes.index(other.label)] += 1
    if not tables:
        return None
    result = paired_deviation_difference([tables[c] for c in sorted(tables)], seed)
    test = f"label swap by image, {DEVIATION_DIFFERENCE}"
    before = mean_deviation_ratio([tables[c].sum(axis=0) for c in sorted(tables)])
    return Comparison(baseline, *result, n, test, before=before, ci_method=DEVIATION_DIFFERENCE)
