"""The contract of a reference set: the images that generated ones are compared with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from harness.declared import Declared


class ReferenceImages(Declared):
    """A reference set as a bench's config names it by `_target_`. Constructors load nothing."""

    settings_of: ClassVar[str] = "bench.reference"

    @abstractmethod
    def images(self) -> Iterable[np.ndarray]:
        """Yield (H, W, 3) uint8 images in a fixed order. Raises MissingResourceError."""
