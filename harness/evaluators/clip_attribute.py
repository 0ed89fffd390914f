"""Perceived attributes by CLIP zero-shot: labels of a biased classifier, for distributions and not for persons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from harness.errors import InvalidValueError
from harness.evaluator import Evaluator, Kind
from harness.evaluators.clip import Clip, ClipSource
from harness.metrics.attributes import UNDECIDED
from harness.records import ScoreItem, ScoreRow
from harness.sources import Download


@dataclass
class ClipAttribute(Evaluator):
    """Labels an image with the nearest text (InterpretDiffusion, arXiv 2311.17216); feeds the deviation ratio.

    `texts` maps labels to texts. Value: margin of the first probability over the second; where it is at most
    `undecided_margin`, the label is `undecided`.
    """

    name: str
    source: str
    texts: Mapping[str, str]
    undecided_margin: float = 0.0
    revision: str | None = None
    _clip: Clip | None = field(default=None, init=False, repr=False)
    _features: Any = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "deviation_ratio"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise InvalidValueError(f"{self.name} needs at least two labels.")

    def identity(self) -> Mapping[str, Any]:
        own = {"classes": list(self.texts), "texts": dict(self.texts), "undecided_margin": self.undecided_margin}
        return {**ClipSource(self.source, self.revision).identity(), **own}

    def missing(self) -> str | None:
        return ClipSource(self.source, self.revision).missing()

    def downloads(self) -> Sequence[Download]:
        return ClipSource(self.source, self.revision).downloads()

    def setup(self, device: str) -> None:
        self._clip = ClipSource(self.source, self.revision).load(device)
        self._features = self._clip.text_features(list(self.texts.values()))

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        assert self._clip is not None, "setup comes first"
        probabilities = self._clip.class_probabilities([item.image for item in batch], self._features)
        names, margin = list(self.texts), self.undecided_margin
        return [attribute_row(item, names, p, margin) for item, p in zip(batch, probabilities, strict=True)]


def attribute_row(item: ScoreItem, names: Sequence[str], probabilities: np.ndarray, undecided: float) -> ScoreRow:
    """Label an image with its most probable class, or `undecided`."""
    order = np.argsort(probabilities)[::-1]
    margin = float(probabilities[order[0]] - probabilities[order[1]])
    label = names[int(order[0])] if margin > undecided else UNDECIDED
    values = {name: float(p) for name, p in zip(names, probabilities, strict=True)}
    return ScoreRow(item.key.prompt_id, item.key.repeat, value=margin, label=label, values=values)
