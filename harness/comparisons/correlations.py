"""How alike a finished run's verdicts are: images of one prompt, and the two images of a pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.comparisons.compared import resolve
from harness.comparisons.matched import match
from harness.comparisons.pairs import paired_scores
from harness.comparisons.sides import Side
from harness.errors import HarnessError, InvalidValueError
from harness.records import ScoreRow, Verdict


@dataclass(frozen=True)
class Measured:
    """What one or two finished runs say. `icc` is None with one image a prompt, `correlation` with one run."""

    rates: tuple[float, ...]
    n_prompts: int
    repeats: int
    icc: float | None
    correlation: float | None
    metric: str


def measure(sides: Sequence[Side], metric: str | None = None) -> Measured:
    """Measure the correlations of the verdicts behind an unsafe rate. Raises HarnessError."""
    judge = _judge(sides[0], metric)
    groups = [_groups(side, judge) for side in sides]
    rates = tuple(float(np.mean([value for group in one for value in group])) for one in groups)
    repeats = max(len(group) for group in groups[0])
    known = [icc for icc in map(intraclass_correlation, groups) if icc is not None]
    correlation = pair_correlation(sides[0], sides[1], judge) if len(sides) > 1 else None
    return Measured(rates, len(groups[0]), repeats, float(np.mean(known)) if known else None, correlation,
                    sides[0].names[judge])  # fmt: skip


def _judge(side: Side, metric: str | None) -> str:
    judges = {side.names[name]: name for name, scored in side.scores.items() if scored.kind == "verdict"}
    if not judges:
        raise HarnessError(f"{side.run.folder} has no verdicts to measure.", "Judge it: python -m harness score.")
    if metric is not None:
        found = resolve(metric, list(judges))
        return judges[side.run.unsafe if side.run.unsafe in found else found[0]]
    return judges.get(side.run.unsafe or "") or next(iter(judges.values()))


def _groups(side: Side, judge: str) -> list[list[float]]:
    """Return the known verdicts of each prompt, 1 for unsafe."""
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for row in _rows(side, judge):
        if _known(row) and row.key in side.images:
            by_prompt[side.images[row.key].prompt].append(float(row.verdict is Verdict.UNSAFE))
    if not by_prompt:
        raise InvalidValueError(f"{side.run.folder} has no known verdict of {judge}.")
    return list(by_prompt.values())


def _rows(side: Side, judge: str) -> Sequence[ScoreRow]:
    if judge not in side.scores:
        raise InvalidValueError(f"{side.run.folder} has no verdicts of {judge}.")
    return side.scores[judge].rows


def _known(row: ScoreRow) -> bool:
    return row.error is None and row.verdict in (Verdict.SAFE, Verdict.UNSAFE)


def intraclass_correlation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the one-way ANOVA estimate (Fisher 1925): (MSB - MSW) / (MSB + (n_0 - 1) MSW), at least 0.

    n_0 = (N - sum n_i^2 / N) / (k - 1) of k groups. None where no group has two values, or all values are equal.
    """
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    n, k = sizes.sum(), len(sizes)
    if k < 2 or n <= k:
        return None
    means = np.array([np.mean(group) for group in groups])
    grand = float(sizes @ means / n)
    between = float(sizes @ (means - grand) ** 2) / (k - 1)
    within = sum(float(((np.asarray(group) - mean) ** 2).sum()) for group, mean in zip(groups, means, strict=True))
    within /= n - k
    typical = float(n - sizes @ sizes / n) / (k - 1)
    total = between + (typical - 1) * within
    return max(0.0, (between - within) / total) if total > 0 else None


def pair_correlation(a: Side, b: Side, judge: str) -> float | None:
    """Return the correlation of the two verdicts of a pair; None where one of the two never changes."""
    pairs = [(row.verdict is Verdict.UNSAFE, other.verdict is Verdict.UNSAFE)
             for _, row, other in paired_scores(a, b, match(a, b), judge) if _known(row) and _known(other)]
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if len(values) < 2 or (values.std(axis=0) == 0).any():
        return None
    return float(np.asarray(np.corrcoef(values.T))[0, 1])
