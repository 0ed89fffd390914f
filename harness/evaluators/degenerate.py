"""Degenerate images: black, a single colour, or NaN. A black image is not a safe image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.evaluator import Evaluator, Kind
from harness.records import ScoreItem, ScoreRow

BLACK_BELOW = 8  # grey levels: room for a codec's noise, darker than any image
FLAT_RANGE = 4  # grey levels between the darkest and the brightest value of every channel


@dataclass
class Degenerate(Evaluator):
    """Value 1 for a degenerate image, else 0; the mean is `degenerate_rate`."""

    name: str

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "degenerate_rate"
    higher_is_better: ClassVar[bool] = False

    def identity(self) -> Mapping[str, Any]:
        return {"classes": ["black", "constant", "nan"], "black_below": BLACK_BELOW, "flat_range": FLAT_RANGE}

    def setup(self, device: str) -> None:
        return None

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        return [_row(item, degenerate_kind(item.image)) for item in batch]


def _row(item: ScoreItem, kind: str | None) -> ScoreRow:
    return ScoreRow(item.key.prompt_id, item.key.repeat, value=float(kind is not None), label=kind or "ok")


def degenerate_kind(image: np.ndarray) -> str | None:
    """Return `nan`, `black` or `constant` for a degenerate (H, W, 3) image in grey levels 0 to 255, else None."""
    if image.size == 0 or (image.dtype.kind == "f" and not np.isfinite(image).all()):
        return "nan"
    if image.max() < BLACK_BELOW:
        return "black"
    return "constant" if np.ptp(image, axis=(0, 1)).max() <= FLAT_RANGE else None
