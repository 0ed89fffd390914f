"""A cell with its images and what its evaluators said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.cells.cell import Cell
from harness.evaluator import Evaluator
from harness.metrics.summary import EvaluatorScores
from harness.records import ImageRow, ScoreRow


@dataclass(frozen=True)
class Scored:
    """A cell with what its evaluators said."""

    cell: Cell
    images: dict[Any, ImageRow]
    evaluators: dict[str, Evaluator]
    scores: dict[str, list[ScoreRow]]

    def for_metrics(self) -> dict[str, EvaluatorScores]:
        return {name: EvaluatorScores.of(self.evaluators[name], rows) for name, rows in self.scores.items()}
