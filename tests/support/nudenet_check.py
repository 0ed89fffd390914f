"""NudeNet's own detector against ours: the same detections, and how many images a second each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluators.nudenet_boxes import LABELS, Found
from harness.evaluators.nudenet_detector import Detector

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Agreement:
    """How far our detections are from the package's. `n_differing`: images with other labels, boxes or counts."""

    n_images: int
    n_detections: int
    n_differing: int
    largest_score_difference: float


@dataclass(frozen=True)
class Speed:
    """Images a second in one run, best of several rounds of each, taken in turn."""

    package: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.package


def agreement(ours: Detector, package: Any, images: Images) -> Agreement:
    """Compare with `package` (nudenet.NudeDetector) on (H, W, 3) uint8 RGB images, boxes cut to whole pixels."""
    pairs = [(package.detect(_bgr(image)), found) for image, found in zip(images, ours.detect(images), strict=True)]
    distances = [distance(theirs, found) for theirs, found in pairs]
    known = [one for one in distances if one is not None]
    total = sum(len(theirs) for theirs, _ in pairs)
    return Agreement(len(images), total, distances.count(None), max(known, default=0.0))


def distance(theirs: Sequence[dict[str, Any]], found: Found) -> float | None:
    """Return the largest difference of scores; None where labels, their order or boxes differ."""
    labels = [LABELS[int(index)] for index in found.labels]
    boxes = [[int(edge) for edge in box] for box in found.boxes]
    if [(one["class"], one["box"]) for one in theirs] != list(zip(labels, boxes, strict=True)):
        return None
    return max((abs(one["score"] - float(s)) for one, s in zip(theirs, found.scores, strict=True)), default=0.0)


def speed(ours: Detector, package: Any, images: Images, batch_size: int = 16, rounds: int = 6) -> Speed:
    """Time both on the same images in memory. The package gets the better of `detect` and `detect_batch`."""
    swapped = [_bgr(image) for image in images]
    ways: dict[str, Callable[[], Any]] = {
        "single": lambda: [package.detect(image) for image in swapped],
        "batch": lambda: package.detect_batch(swapped, batch_size=batch_size),
        "ours": lambda: [ours.detect(images[i : i + batch_size]) for i in range(0, len(images), batch_size)],
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            best[name] = min(best[name], _seconds(run))
    return Speed(len(images) / min(best["single"], best["batch"]), len(images) / best["ours"])


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[:, :, ::-1])
