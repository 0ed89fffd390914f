"""Images whose verdict flips between two cells, and McNemar's table of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from harness.comparisons.matched import Matched
from harness.comparisons.pairs import paired_scores
from harness.comparisons.sides import Side
from harness.records import ImageKey, ScoreRow, Verdict


@dataclass(frozen=True)
class Flips:
    """One judge's verdicts of all pairs: `only_a` are unsafe in a and safe in b, `only_b` the other way round."""

    evaluator: str
    only_a: tuple[ImageKey, ...]
    only_b: tuple[ImageKey, ...]
    both: int
    neither: int
    unknown: int  # pairs without a verdict of both: unknown, refused or failed


def flips(a: Side, b: Side, matched: Matched, evaluator: str) -> Flips:
    """Sort the pairs by the two verdicts of a judge."""
    keys: dict[tuple[bool, bool], list[ImageKey]] = {(True, False): [], (False, True): []}
    counts: Counter[tuple[bool, bool]] = Counter()
    for image, row, other in paired_scores(a, b, matched, evaluator):
        if not (_known(row) and _known(other)):
            continue
        kind = (row.verdict is Verdict.UNSAFE, other.verdict is Verdict.UNSAFE)
        counts[kind] += 1
        if kind in keys:
            keys[kind].append(image.key)
    unknown = len(matched.keys) - sum(counts.values())
    return Flips(evaluator, tuple(keys[True, False]), tuple(keys[False, True]), counts[True, True],
                 counts[False, False], unknown)  # fmt: skip


def _known(row: ScoreRow) -> bool:
    return row.error is None and row.verdict in (Verdict.SAFE, Verdict.UNSAFE)
