"""A feature extractor: the features that FID, KID and feature distances use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.declared import Declared
from harness.lib.targets import build
from harness.lib.wanted import Download

Images = Sequence[NDArray[np.uint8]]


class FeatureExtractor(Declared):
    """Turns images into vectors. Constructors load nothing; `setup` does."""

    settings_of: ClassVar[str] = "extractor"

    name: str

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Return what changes features: weights hash and preprocessing."""

    def missing(self) -> str | None:
        """Return None when everything needed is there, else one line: what is missing and how to get it."""
        return None

    def downloads(self) -> Sequence[Download]:
        """Return what may be fetched for it where something is missing."""
        return ()

    @abstractmethod
    def setup(self, device: str) -> None:
        """Load the weights. Raises MissingResourceError."""

    @abstractmethod
    def features(self, images: Images) -> NDArray[np.float32]:
        """Return (B, D) features of (H, W, 3) uint8 images of any size."""


class MapExtractor(FeatureExtractor):
    """An extractor that also shows its spatial feature maps."""

    @abstractmethod
    def feature_maps(self, images: Images) -> list[NDArray[np.float32]]:
        """Return one (B, C, H, W) map a layer, for images of any size."""


def make_extractor(config: Mapping[str, Any]) -> FeatureExtractor:
    """Build the extractor that a config with `_target_` names."""
    extractor: FeatureExtractor = build(config, FeatureExtractor)
    return extractor
