"""NudeNet v3's detectors in an onnxruntime session of our own: the package's arithmetic, threads and providers chosen.

Follows nudenet 3.4.2 step by step; the package offers neither threads nor providers and decodes box by box in Python.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CANDIDATE_FLOOR = 0.2  # anchors below it are dropped before the suppression
PACKAGE_FLOOR = 0.25  # the suppression drops what is not above it, so a lower threshold would do nothing
OVERLAP = 0.45  # of two boxes that overlap more, whatever their labels, the lower score goes
PREPROCESSING = "RGB, padded with black right and below to a square, resized bilinearly, divided by 255, seen as BGR"

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

    def best(self) -> dict[str, float]:
        """Return each label's highest score among the boxes, 0 where it has none."""
        scores = np.zeros(len(LABELS), np.float32)
        np.maximum.at(scores, self.labels, self.scores)
        return dict(zip(LABELS, scores.tolist(), strict=True))


def network_input(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Return what the network reads of an (H, W, 3) RGB image: (1, 3, side, side) float32 in [0, 1]."""
    import cv2

    height, width = image.shape[:2]
    longer = max(height, width)
    square = cv2.copyMakeBorder(image, 0, longer - height, 0, longer - width, cv2.BORDER_CONSTANT)
    return np.asarray(cv2.dnn.blobFromImage(square, 1 / 255.0, (side, side), (0, 0, 0), swapRB=True), np.float32)


def decode(output: NDArray[np.float32], width: int, height: int, side: int) -> Found:
    """Read one image's `output0` (22, A), 4 of the box and 18 of the labels, as the package does."""
    import cv2

    scores = output[4:]
    best = scores.max(axis=0)
    anchors = np.flatnonzero(best >= CANDIDATE_FLOOR)
    boxes = _boxes(output[:4, anchors], width, height, side)
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), best[anchors].tolist(), PACKAGE_FLOOR, OVERLAP)
    order = np.asarray(kept, dtype=np.intp).reshape(-1)
    chosen = anchors[order]
    return Found(scores[:, chosen].argmax(axis=0), best[chosen], boxes[order], scores.max(axis=1))


def _boxes(centred: NDArray[np.float32], width: int, height: int, side: int) -> NDArray[np.float32]:
    """Turn (4, N) centres and sizes of the padded square into (N, 4) corners and sizes inside the image."""
    x, y, w, h = centred
    longer = max(width, height)
    left = np.clip((x - w / 2) * longer / side, 0, width)
    top = np.clip((y - h / 2) * longer / side, 0, height)
    wide = np.minimum(w * longer / side, width - left)
    high = np.minimum(h * longer / side, height - top)
    return np.stack([left, top, wide, high], axis=1)


def compute_threads() -> int:
    """Return the threads that this process may compute with."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Detector:
    """A detector in memory.

    On a CPU one image is one call with one thread, and `threads` calls run side by side: the network gains nothing
    from batches or from threads inside a call, and scores cannot depend on the batch.
    """

    def __init__(self, file: Path, side: int, device: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.side, self.threads = side, threads
        self._session = onnxruntime.InferenceSession(file, options, providers=_providers(device))
        self._input = self._session.get_inputs()[0].name
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def on_gpu(self) -> bool:
        return "CUDAExecutionProvider" in self._session.get_providers()

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Found]:
        """Detect in (H, W, 3) uint8 RGB images of any size. Raises ValueError where a score is not finite."""
        if self.on_gpu:
            inputs = [network_input(image, self.side) for image in images]
            return [self._decoded(image, output)
                    for image, output in zip(images, self._run(np.concatenate(inputs)), strict=True)]
        return list(self._pool.map(self._one, images) if self._pool else map(self._one, images))

    def _one(self, image: NDArray[np.uint8]) -> Found:
        return self._decoded(image, self._run(network_input(image, self.side))[0])

    def _run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = self._session.run(None, {self._input: inputs})[0]
        return outputs

    def _decoded(self, image: NDArray[np.uint8], output: NDArray[np.float32]) -> Found:
        if not np.isfinite(output).all():  # a comparison with NaN is false, and would read as no detection
            raise ValueError("the detector's output is not finite")
        return decode(output, image.shape[1], image.shape[0], self.side)


def _providers(device: str) -> list[Any]:
    import onnxruntime

    if device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        index = int(device.partition(":")[2] or 0)
        return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
