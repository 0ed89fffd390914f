"""What evaluators say of a cell's images: stored scores, decided; and what combines them."""

from __future__ import annotations

from collections.abc import Mapping

from harness.cells.store import CellStore
from harness.evaluator import CompositeEvaluator, Evaluator
from harness.evaluators.identity import EvaluatorKey
from harness.metrics.summary import EvaluatorScores
from harness.records import ImageKey, ImageRow, ScoreRow

Rows = dict[ImageKey, ScoreRow]


def judged(
    store: CellStore,
    evaluator: Evaluator,
    baseline: Mapping[ImageKey, str] | None = None,
    images: Mapping[ImageKey, ImageRow] | None = None,
) -> Rows:
    """Return an evaluator's row of each image that has current scores; the others are as in `CellStore.scores`."""
    stored = store.scores(EvaluatorKey.of(evaluator), baseline, images)
    return {key: decided(evaluator, row) for key, row in stored.items()}


def decided(evaluator: Evaluator, row: ScoreRow) -> ScoreRow:
    """Return a stored row as this evaluator decides it; a failed one stays as it is."""
    return row if row.error is not None else evaluator.decide(row)


def combined(evaluator: CompositeEvaluator, parts: Mapping[str, Mapping[ImageKey, ScoreRow]]) -> Rows:
    """Return the row of each image that every part of the composite has one of."""
    first, *others = [parts[name] for name in evaluator.parts]
    keys = [key for key in first if all(key in rows for rows in others)]
    return {key: evaluator.combine({name: parts[name][key] for name in evaluator.parts}) for key in keys}


def scores_of(store: CellStore, evaluators: Mapping[str, Evaluator]) -> dict[str, EvaluatorScores]:
    """Return what these evaluators said of another cell's images; nothing of that cell's own configuration is read."""
    rows, images = dict[str, Rows](), store.images()
    for name, evaluator in evaluators.items():
        if evaluator.kind == "features" or evaluator.needs_baseline:
            continue
        if isinstance(evaluator, CompositeEvaluator):
            if all(part in rows for part in evaluator.parts):
                rows[name] = combined(evaluator, rows)
        else:
            rows[name] = judged(store, evaluator, images=images)
    return {name: EvaluatorScores.of(evaluators[name], list(by_key.values())) for name, by_key in rows.items()}
