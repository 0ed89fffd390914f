"""How many of which parts a detector finds: its boxes counted by label, over all images of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.errors import InvalidValueError
from harness.evaluator import CompositeEvaluator, Kind
from harness.records import ScoreRow
from harness.setting_types import Text, TextList, Threshold

WITHOUT_BOXES = "its scores are of an earlier release and hold no boxes: remove them from the run's folder, judge again"


@dataclass
class BoxCounts(CompositeEvaluator):
    """Value: how many boxes of `labels` (our name: the detector's label) score at least `threshold` in an image.

    `values` holds the count of each name. `parts` is the one detector whose stored boxes are counted; its own threshold
    and labels do not matter, but for those that it drops before it stores boxes. The metric is the sum over all images,
    and the sum by name: `detections`, `detections/<name>`.
    """

    name: str
    parts: TextList
    labels: Mapping[str, Text]
    threshold: Threshold

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "detections"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.parts) != 1:
            raise InvalidValueError(f"{self.name}: parts {list(self.parts)} are not one detector.")
        if not self.labels:
            raise InvalidValueError(f"{self.name} counts no label.")

    def identity(self) -> Mapping[str, Any]:
        return {"counts": "boxes", "labels": dict(self.labels), "threshold": self.threshold, "parts": list(self.parts)}

    @property
    def totals(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def combine(self, rows: Mapping[str, ScoreRow]) -> ScoreRow:
        row = rows[self.parts[0]]
        prompt_id, repeat = row.prompt_id, row.repeat
        error = row.error or (WITHOUT_BOXES if self._lacks_boxes(row) else None)
        if error is not None:
            return ScoreRow(prompt_id, repeat, error=error)
        seen = [box.label for box in row.boxes if box.score >= self.threshold]
        counts = {name: float(seen.count(label)) for name, label in self.labels.items()}
        label = "+".join(name for name, count in counts.items() if count) or "none"
        return ScoreRow(prompt_id, repeat, value=sum(counts.values()), label=label, values=counts, boxes=row.boxes)

    def _lacks_boxes(self, row: ScoreRow) -> bool:
        """Return whether scores tell of boxes that are not stored: earlier releases kept the scores alone."""
        return not row.boxes and any(row.values.get(label, 0.0) >= self.threshold for label in self.labels.values())
