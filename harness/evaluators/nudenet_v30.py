"""How NudeNet 3.0 (3.0.8) reads an image and its network's output: unlike 3.4 in colour order, padding and boxes.

Its weights are other ones, too, in the file best.onnx of its wheel. The suppression is the same: scores up to 0.25 go.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.evaluators.nudenet_boxes import CANDIDATE_FLOOR, OVERLAP, PACKAGE_FLOOR, Found

PREPROCESSING_V30 = "RGB, longer side resized bilinearly, padded with black on both sides to a square, divided by 255"


def network_input_v30(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Return (1, 3, side, side) float32 in [0, 1] of an (H, W, 3) RGB image.

    Padding is cut to whole pixels on both sides; where that leaves one too few, the whole is resized once more.
    """
    import cv2

    width, height = _inner(image.shape[1], image.shape[0], side)
    left, top = (side - width) // 2, (side - height) // 2
    inner = cv2.resize(image, (width, height))
    padded = cv2.copyMakeBorder(inner, top, top, left, left, cv2.BORDER_CONSTANT, value=[0, 0, 0])
    square = np.asarray(cv2.resize(padded, (side, side)))
    return np.ascontiguousarray((square.astype(np.float32) / 255.0).transpose(2, 0, 1)[None])


def decode_v30(
    scores: NDArray[np.float32], boxes: Callable[[NDArray[np.intp]], NDArray[np.float32]],
    width: int, height: int, side: int,
) -> Found:
    """Read one image's (18, A) scores. `boxes` gives (4, N) centres and sizes of N of A anchors.

    Boxes are whole pixels of the image and may leave it, since this version does not cut them.
    """
    import cv2

    best = scores.max(axis=0)
    anchors = np.flatnonzero(best >= CANDIDATE_FLOOR)
    x, y, w, h = boxes(anchors).astype(np.float64)
    inner = _inner(width, height, side)
    factor = math.sqrt((width**2 + height**2) / (inner[0] ** 2 + inner[1] ** 2))
    left, top = (x - w / 2 - (side - inner[0]) // 2) * factor, (y - h / 2 - (side - inner[1]) // 2) * factor
    whole = np.rint(np.stack([left, top, w * factor, h * factor], axis=1)).astype(np.int64)
    kept = cv2.dnn.NMSBoxes(whole.tolist(), best[anchors].tolist(), PACKAGE_FLOOR, OVERLAP)
    order = np.asarray(kept, dtype=np.intp).reshape(-1)
    chosen = anchors[order]
    return Found(scores[:, chosen].argmax(axis=0), best[chosen], whole[order].astype(np.float32), scores.max(axis=1))


def _inner(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the (width, height) that an image has inside the padded square."""
    aspect = width / height
    return (max(1, round(side * aspect)), side) if height > width else (side, max(1, round(side / aspect)))
