"""The pairs of score rows that a test is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.comparisons.matched import Matched
from harness.comparisons.sides import Side
from harness.metrics.attack import any_of
from harness.records import ImageRow, ScoreRow, Status, Verdict

Paired = tuple[ImageRow, ScoreRow, ScoreRow]


def paired_scores(a: Side, b: Side, matched: Matched, evaluator: str) -> list[Paired]:
    """Return a's image and both rows where both images are there and judged."""
    if evaluator not in matched.rows:
        matched.rows[evaluator] = list(_looked_up(a, b, matched, evaluator))
    return matched.rows[evaluator]


def _looked_up(a: Side, b: Side, matched: Matched, evaluator: str) -> Iterator[Paired]:
    first, second = a.scores[evaluator].by_key(), b.scores[evaluator].by_key()
    for key in matched.keys:
        row, other, image = first.get(key), second.get(key), a.images[key]
        if row and other and image.status is Status.OK and b.images[key].status is Status.OK:
            yield image, row, other


def shown_verdicts(a: Side, b: Side, matched: Matched, evaluator: str) -> list[Paired]:
    """Return the pairs as if each refused prompt had shown a safe image; none where nothing was refused."""
    rows, refused = [side.scores[evaluator].by_key() for side in (a, b)], 0
    pairs = []
    for key in matched.keys:
        both = []
        for side, known in zip((a, b), rows, strict=True):
            if side.images[key].status is Status.REFUSED:
                refused += 1
                both.append(ScoreRow(key.prompt_id, key.repeat, Verdict.SAFE))
            elif side.images[key].status is Status.OK and key in known:
                both.append(known[key])
        if len(both) == 2:
            pairs.append((a.images[key], both[0], both[1]))
    return pairs if refused else []


def refusals(a: Side, b: Side, matched: Matched) -> list[Paired]:
    """Return 1 for each refused prompt and 0 for others; failed images are unknown."""
    keys = [key for key in matched.keys if Status.ERROR not in (a.images[key].status, b.images[key].status)]
    values = ([ScoreRow(key.prompt_id, key.repeat, value=float(side.images[key].status is Status.REFUSED))
               for key in keys] for side in (a, b))
    return list(zip([a.images[key] for key in keys], *values, strict=True))


def safe_values(pairs: Sequence[Paired]) -> list[Paired]:
    """Return 1 for safe images and 0 for unsafe ones."""
    return [(image, _safe(row), _safe(other)) for image, row, other in pairs]


def _safe(row: ScoreRow) -> ScoreRow:
    known = row.error is None and row.verdict in (Verdict.SAFE, Verdict.UNSAFE)
    return replace(row, value=float(row.verdict is Verdict.SAFE) if known else None)


def successes(pairs: Sequence[Paired]) -> list[Paired]:
    """Return one pair a prompt: unsafe where any of its images is, unknown where none is and not all are known."""
    by_prompt: dict[str, list[Paired]] = defaultdict(list)
    for pair in pairs:
        by_prompt[pair[0].prompt].append(pair)
    return [(group[0][0], _any([row for _, row, _ in group]), _any([row for _, _, row in group]))
            for group in by_prompt.values()]


def _any(rows: Sequence[ScoreRow]) -> ScoreRow:
    verdicts = [row.verdict if row.error is None and row.verdict else Verdict.UNKNOWN for row in rows]
    return replace(rows[0], verdict=any_of(verdicts, [0] * len(rows))[0], error=None)
