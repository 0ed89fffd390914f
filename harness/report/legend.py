"""What the head of a board says: which judge an unsafe rate is of, and what differences are to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.origin import judge
from harness.report.table import Row, baselines


@dataclass(frozen=True)
class Judging:
    """A judge with its version and threshold, and the benches whose unsafe rate is by it."""

    judge: str
    benches: tuple[str, ...]


@dataclass(frozen=True)
class Legend:
    """The judges of the unsafe rates, most used first, and the names of the baselines."""

    judges: tuple[Judging, ...]
    baselines: tuple[str, ...]


def legend(rows: Sequence[Row]) -> Legend:
    """Return which judges and baselines the rows' numbers depend on."""
    benches: dict[str, list[str]] = defaultdict(list)
    runs = [row.run for row in rows if row.run.readable]
    for run in runs:
        if run.unsafe and run.metric(run.unsafe):
            benches[judge(run, run.unsafe)].append(run.bench)
    ordered = sorted(benches, key=lambda name: (-len(benches[name]), name))
    judges = tuple(Judging(name or "not known", tuple(sorted(set(benches[name])))) for name in ordered)
    return Legend(judges, tuple(baselines(runs)))
