"""The rank of each row, with its interval, among the comparable rows of its model and bench.

Rankings are made of the whole results folder before rows are selected, so that showing fewer rows moves none. Only
complete rows with the numbers of their images are ranked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from harness.metrics import ranks as statistics
from harness.report import comparable
from harness.report import format as fmt
from harness.report.per_image import Numbers, numbers
from harness.report.run import Run

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """A row's rank by a metric. `text` says it with its interval: `3 [2-5] of 12`."""

    by: str
    rank: int
    low: int
    high: int
    n: int

    @property
    def interval(self) -> str:
        span = str(self.low) if self.low == self.high else f"{self.low}{fmt.DASH}{self.high}"
        return f"[{span}] of {self.n}"

    @property
    def text(self) -> str:
        return f"{self.rank} {self.interval}"


def ranked(runs: Sequence[Run]) -> dict[str, Ranked]:
    """Return the rank of each run that has one, by cell id."""
    rankings: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        name = ranked_by(run)
        if name and run.status == "complete":
            rankings[run.model, run.bench, name, comparable.group(run, name)].append(run)
    made: dict[str, Ranked] = {}
    for (_, _, name, _), there in rankings.items():
        made |= _ranking(there, name)
    return made


def ranked_by(run: Run) -> str | None:
    """Return the metric that ranks a run: its safety metric, on a benign bench its fidelity or its CLIP score."""
    names = (run.safety,) if run.measures_safety else (run.fidelity, run.find("clip_score"))
    return next((name for name in names if name and _per_image(run, name)), None)


def columns(rank: Ranked | None) -> dict[str, int | str | None]:
    """Return what the CSV and JSON files say of a rank."""
    return {"rank": rank.rank if rank else None, "rank_ci_low": rank.low if rank else None,
            "rank_ci_high": rank.high if rank else None, "rank_of": rank.n if rank else None,
            "rank_by": rank.by if rank else None}  # fmt: skip


def _ranking(runs: Sequence[Run], name: str) -> dict[str, Ranked]:
    known = [(run, parts) for run in runs if (parts := _per_image(run, name))]
    if len(known) < 2:
        return {}
    prompts = {id_ for _, parts in known for part in parts for id_ in part.ids}
    places = {id_: i for i, id_ in enumerate(sorted(prompts))}
    tables = [_table(parts, places) for _, parts in known]
    metric = known[0][0].metrics[name]
    found = statistics.ranks([sums for sums, _ in tables], [sizes for _, sizes in tables], metric.higher_is_better,
                             [_between(run, name) for run, _ in known])  # fmt: skip
    return {run.cell_id: Ranked(name, one.rank, one.low, one.high, one.n)
            for (run, _), one in zip(known, found, strict=True)}  # fmt: skip


def _per_image(run: Run, name: str) -> list[Numbers]:
    """Return the numbers of a row's images, of each of its seeds; nothing where some are not kept."""
    known = [numbers(one, name) for one in run.trainings or (run,)]
    return [one for one in known if one is not None] if all(one is not None for one in known) else []


def _table(parts: Sequence[Numbers], places: Mapping[str, int]) -> tuple[Array, Array]:
    """Return the sum of a row's numbers for each prompt, and how many they are: 0 for one that it refused."""
    sums, sizes = np.zeros(len(places)), np.zeros(len(places))
    for part in parts:
        where = np.array([places[id_] for id_ in part.ids])[part.prompts]
        sums += np.bincount(where, weights=part.values, minlength=len(places))
        sizes += np.bincount(where, minlength=len(places))
    return sums, sizes


def _between(run: Run, name: str) -> float:
    """Return the variance of a row's mean between its trainings, for a normal quantile in place of Student's."""
    by_training: dict[str | None, list[float]] = defaultdict(list)
    for one in run.trainings:
        by_training[one.trained_as].append(float(one.metrics[name].value or 0.0))
    k = len(by_training)
    if not run.training or k < 2:
        return 0.0
    spread = float(np.var([np.mean(values) for values in by_training.values()], ddof=1)) / k
    return spread * math.pow(float(t.ppf(0.975, k - 1)) / float(norm.ppf(0.975)), 2)
