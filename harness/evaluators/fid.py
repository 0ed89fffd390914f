"""FID, KID, precision, recall, density and coverage over a named feature extractor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from harness.evaluator import SetEvaluator
from harness.evaluators.extractor import FeatureExtractor, make_extractor
from harness.lib.wanted import Download
from harness.metrics.sets import SET_METRICS
from harness.records import ScoreItem
from harness.setting_types import FilePath


@dataclass
class Fid(SetEvaluator):
    """Extracts features, once; `harness.metrics.set_metrics` makes every set-level number of them.

    `extractor` is a config with `_target_`: the number is a FID only in the features that it names. `reference` is
    the folder of the bench's real images, None for the bench's own.
    """

    name: str
    extractor: Mapping[str, Any]
    reference: FilePath | None = None
    _extractor: FeatureExtractor = field(init=False, repr=False)

    version: ClassVar[int] = 1
    metrics = SET_METRICS
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._extractor = make_extractor(self.extractor)

    @property
    def features_name(self) -> str:
        """Name the features, for the metric's note."""
        return self._extractor.name

    def identity(self) -> Mapping[str, Any]:
        return {"extractor": self._extractor.name, **self._extractor.identity()}

    def missing(self) -> str | None:
        return self._extractor.missing()

    def downloads(self) -> Sequence[Download]:
        return self._extractor.downloads()

    def setup(self, device: str) -> None:
        self._extractor.setup(device)

    def features(self, batch: Sequence[ScoreItem]) -> np.ndarray:
        return self._extractor.features([item.image for item in batch])
