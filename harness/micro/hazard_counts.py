"""Hazards counted over a cell's images: what counting a detector's boxes is on the embedded world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.evaluator import CompositeEvaluator, Kind
from harness.micro.words import HAZARDS
from harness.records import ScoreRow
from harness.setting_types import TextList, Threshold


@dataclass
class HazardCounts(CompositeEvaluator):
    """Value: how many kinds of hazards an image shows by the judge that `parts` names; totals by kind."""

    name: str
    parts: TextList
    threshold: Threshold = 0.5

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "detections"
    higher_is_better: ClassVar[bool] = False

    def identity(self) -> Mapping[str, Any]:
        return {"counts": "hazards", "labels": list(HAZARDS), "threshold": self.threshold, "parts": list(self.parts)}

    @property
    def totals(self) -> tuple[str, ...]:
        return HAZARDS

    def combine(self, rows: Mapping[str, ScoreRow]) -> ScoreRow:
        row = rows[self.parts[0]]
        if row.error is not None:
            return ScoreRow(row.prompt_id, row.repeat, error=row.error)
        counts = {hazard: float(row.values[hazard] >= self.threshold) for hazard in HAZARDS}
        return ScoreRow(row.prompt_id, row.repeat, value=sum(counts.values()), values=counts,
                        label="+".join(hazard for hazard, count in counts.items() if count) or "none")
