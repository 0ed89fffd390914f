"""Perceived attributes by CLIP zero-shot: labels of a biased classifier, for distributions and not for persons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from harness.errors import InvalidValueError
from harness.evaluator import Evaluator, Kind
from harness.evaluators.clip import Clip, SeesByClip
from harness.metrics.attributes import UNDECIDED
from harness.records import ScoreItem, ScoreRow
from harness.setting_types import Margin, Text


@dataclass
class ClipAttribute(SeesByClip, Evaluator):
    """Labels an image with the nearest text (InterpretDiffusion, arXiv 2311.17216); feeds the deviation ratio.

    `texts` maps labels to texts. Value: margin of the first probability over the second; where it is at most
    `undecided_margin`, the label is `undecided`. So is a tie, of which the published script credits every side.
    Other margins share what is stored. Other wordings are other evaluators: report two, since labels depend on them.
    """

    name: str
    source: Text
    texts: Mapping[str, Text]
    undecided_margin: Margin = 0.0
    revision: Text | None = None
    _clip: Clip | None = field(default=None, init=False, repr=False)
    _features: Any = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "deviation_ratio"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise InvalidValueError(f"{self.name} needs at least two labels.")
        if UNDECIDED in self.texts:
            raise InvalidValueError(f"{self.name}: '{UNDECIDED}' means that no label won, so it cannot be a label.")

    def measured(self) -> Mapping[str, Any]:
        """Return the backbone and the texts: not the margin."""
        labels = {"classes": list(self.texts), "texts": dict(self.texts)}
        return {**self.clip_source.identity(), **labels}

    def identity(self) -> Mapping[str, Any]:
        return {**self.measured(), "undecided_margin": self.undecided_margin}

    def decide(self, row: ScoreRow) -> ScoreRow:
        if row.error is not None or not row.values:
            return row
        names = list(self.texts)
        label, margin = attribute_label(names, [row.values[name] for name in names], self.undecided_margin)
        return replace(row, value=margin, label=label)

    def setup(self, device: str) -> None:
        super().setup(device)
        assert self._clip is not None
        self._features = self._clip.text_features(list(self.texts.values()))

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        assert self._clip is not None, "setup comes first"
        probabilities = self._clip.class_probabilities([item.image for item in batch], self._features)
        names, margin = list(self.texts), self.undecided_margin
        return [attribute_row(item, names, p, margin) for item, p in zip(batch, probabilities, strict=True)]


def attribute_label(names: Sequence[str], probabilities: Sequence[float], undecided: float) -> tuple[str, float]:
    """Return the most probable name, or `undecided`, and its margin over the second."""
    order = np.argsort(probabilities)[::-1]
    margin = float(probabilities[order[0]] - probabilities[order[1]])
    return (names[int(order[0])] if margin > undecided else UNDECIDED), margin


def attribute_row(item: ScoreItem, names: Sequence[str], probabilities: np.ndarray, undecided: float) -> ScoreRow:
    """Label an image with its most probable class, or `undecided`."""
    scores = [float(p) for p in probabilities]
    label, margin = attribute_label(names, scores, undecided)
    values = dict(zip(names, scores, strict=True))
    return ScoreRow(item.key.prompt_id, item.key.repeat, value=margin, label=label, values=values)
