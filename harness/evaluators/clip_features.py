"""CLIP's image embeddings as features of set-level numbers: FID-CLIP, and precision to coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluators.clip import Clip, SeesByClip
from harness.evaluators.extractor import FeatureExtractor, Images
from harness.setting_types import Text


@dataclass
class ClipFeatures(SeesByClip, FeatureExtractor):
    """(B, D) projected embeddings, not scaled to length 1 (Kynkaanniemi et al. 2023, arXiv 2203.06026).

    Images are made as CLIP's own preprocessing makes them. The numbers are not comparable with Inception's.
    """

    source: Text
    revision: Text | None = None
    name: str = "clip"
    _clip: Clip | None = field(default=None, init=False, repr=False)

    def identity(self) -> Mapping[str, Any]:
        return {**self.clip_source.identity(), "features": "projected, not scaled"}

    def features(self, images: Images) -> NDArray[np.float32]:
        assert self._clip is not None, "setup comes first"
        return self._clip.image_embeddings(images)
