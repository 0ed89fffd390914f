"""How far a method moves an image: distance of feature maps to the baseline's image of the same prompt and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import IncompatibleError
from harness.evaluator import Evaluator, Kind
from harness.evaluators.extractor import MapExtractor, make_extractor
from harness.records import ScoreItem, ScoreRow


@dataclass
class FeatureDistance(Evaluator):
    """LPIPS without learned weights (arXiv 1801.03924, eq. 1 with w = 1), in the extractor's maps; never called LPIPS.

    Maps are scaled to unit length along channels; squared differences are summed over channels, averaged over
    space and over layers: 0 for the same image, at most 4.
    """

    name: str
    extractor: Mapping[str, Any]
    _extractor: MapExtractor = field(init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "feature_distance"
    higher_is_better: ClassVar[bool] = False
    needs_baseline: ClassVar[bool] = True

    def __post_init__(self) -> None:
        made = make_extractor(self.extractor)
        if not isinstance(made, MapExtractor):
            raise IncompatibleError(f"{made.name} provides no feature maps, which {self.name} needs.")
        self._extractor = made

    def identity(self) -> Mapping[str, Any]:
        return {"extractor": self._extractor.name, **self._extractor.identity()}

    def missing(self) -> str | None:
        return self._extractor.missing()

    def setup(self, device: str) -> None:
        self._extractor.setup(device)

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        maps = self._extractor.feature_maps([item.image for item in batch])
        other = self._extractor.feature_maps([item.baseline for item in batch])
        layers = [map_distance(a, b) for a, b in zip(maps, other, strict=True)]
        means = np.mean(layers, axis=0)
        return [
            ScoreRow(item.key.prompt_id, item.key.repeat, value=float(mean))
            for item, mean in zip(batch, means, strict=True)
        ]


def map_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over space of the squared distance of channel-normalised (B, C, H, W) maps: (B,)."""
    difference = _unit(a) - _unit(b)
    distance: NDArray[np.float64] = (difference**2).sum(axis=1).mean(axis=(1, 2))
    return distance


def _unit(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = maps.astype(np.float64)
    lengths = np.sqrt((wide**2).sum(axis=1, keepdims=True))
    unit: NDArray[np.float64] = wide / np.maximum(lengths, 1e-10)
    return unit
