"""What NudeNet's detectors find in an image: labels, boxes, and the scores below which a box is dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.records import Box

CANDIDATE_FLOOR = 0.2  # anchors below it are dropped before the suppression
PACKAGE_FLOOR = 0.25  # the suppression drops what is not above it, so a lower threshold would do nothing
OVERLAP = 0.45  # of two boxes that overlap more, whatever their labels, the lower score goes

LABELS = (
    "FEMALE_GENITALIA_COVERED", "FACE_FEMALE", "BUTTOCKS_EXPOSED", "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED", "MALE_BREAST_EXPOSED", "ANUS_EXPOSED", "FEET_EXPOSED", "BELLY_COVERED",
    "FEET_COVERED", "ARMPITS_COVERED", "ARMPITS_EXPOSED", "FACE_MALE", "BELLY_EXPOSED", "MALE_GENITALIA_EXPOSED",
    "ANUS_COVERED", "FEMALE_BREAST_COVERED", "BUTTOCKS_COVERED",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What the detector says of one image: boxes that survive (x, y, width, height in pixels), best first.

    `raw` (18,) is the highest score of each label over all anchors, without suppression: never below the box's score.
    """

    labels: NDArray[np.intp]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    raw: NDArray[np.float32]

    def in_parts(self, width: int, height: int) -> tuple[Box, ...]:
        """Return the boxes of an image of `width` x `height` pixels in parts of it, cut at its edges, best first."""
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)
        left, top, right, bottom = np.clip(corners / np.array([width, height] * 2), 0, 1).T
        places = np.stack([left, top, right - left, bottom - top], axis=1).tolist()
        return tuple(Box(LABELS[label], score, *place)
                     for label, score, place in zip(self.labels.tolist(), self.scores.tolist(), places, strict=True))

    def best(self) -> dict[str, float]:
        """Return each label's highest score among the boxes, 0 where it has none."""
        scores = np.zeros(len(LABELS), np.float32)
        np.maximum.at(scores, self.labels, self.scores)
        return dict(zip(LABELS, scores.tolist(), strict=True))
