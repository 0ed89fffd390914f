"""The contract of a reference set: the images that generated ones are compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np


class ReferenceImages(ABC):
    """A reference set as a bench's config names it by `_target_`. Constructors load nothing."""

    @abstractmethod
    def images(self) -> Iterable[np.ndarray]:
        """Yield (H, W, 3) uint8 images in a fixed order. Raises MissingResourceError."""
