"""A run's comparisons with one baseline, and p values corrected for the choice among many methods.

A family is every comparison of one metric, and so of one judge, on one model and bench with one baseline: all methods
of the results folder, whatever their settings, complete or not. One row is one comparison: a mean over several
trainings counts once. Families are made before rows are selected, so that showing fewer rows lowers no p value.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from harness.metrics.multiplicity import holm
from harness.records import Comparison, Metric


@dataclass(frozen=True)
class Against:
    """What compares one run with one baseline. `cell_id` is the baseline's, where the summary tells.

    `distances` are metrics that only exist with a baseline, such as LPIPS.
    """

    label: str
    cell_id: str | None
    comparisons: Mapping[str, Comparison]
    distances: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class Adjusted(Comparison):
    """A comparison with its p value by Holm's method among the `n_family` of its family; NaN where it is in none."""

    p_adjusted: float = math.nan
    n_family: int = 0

    @classmethod
    def of(cls, comparison: Comparison, p: float, n: int) -> Adjusted:
        values = {one.name: getattr(comparison, one.name) for one in fields(Comparison)}
        return cls(**values, p_adjusted=p, n_family=n)


def deciding_p(comparison: Comparison) -> float:
    """Return the p value that a claim rests on: the adjusted one where a family was made."""
    return comparison.p_adjusted if isinstance(comparison, Adjusted) else comparison.p_value


@dataclass(frozen=True)
class _Place:
    run: int
    label: str
    metric: str


def with_families(
    places: Sequence[tuple[str, str]], compared: Sequence[Mapping[str, Against]]
) -> list[dict[str, Against]]:
    """Return each run's comparisons with Holm's p values. `places` are model and bench of the runs."""
    families: dict[tuple[str, ...], dict[_Place, float]] = defaultdict(dict)
    for i, (place, against) in enumerate(zip(places, compared, strict=True)):
        for label, one in against.items():
            for metric, comparison in one.comparisons.items():
                if 0 <= comparison.p_value <= 1:  # not NaN: what was not tested is in no family
                    families[*place, label, metric][_Place(i, label, metric)] = comparison.p_value
    known: dict[_Place, tuple[float, int]] = {}
    for family in families.values():
        known |= {key: (float(p), len(family)) for key, p in zip(family, holm([*family.values()]), strict=True)}
    return [{label: _adjusted(one, i, known) for label, one in against.items()} for i, against in enumerate(compared)]


def _adjusted(one: Against, run: int, known: Mapping[_Place, tuple[float, int]]) -> Against:
    comparisons = {
        metric: Adjusted.of(comparison, *known.get(_Place(run, one.label, metric), (math.nan, 0)))
        for metric, comparison in one.comparisons.items()
    }
    return replace(one, comparisons=comparisons)
