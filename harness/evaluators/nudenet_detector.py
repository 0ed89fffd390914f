"""NudeNet v3's detectors in an onnxruntime session of our own: the package's arithmetic, threads and providers chosen.

Follows nudenet 3.4.2 step by step; the package offers neither threads nor providers and decodes box by box in Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluators.nudenet_boxes import CANDIDATE_FLOOR, OVERLAP, PACKAGE_FLOOR, Found

UNIT_RANGE = np.arange(256, dtype=np.float32) * np.float32(1 / 255.0)
STRIDES = (8, 16, 32)
HEAD = ("/model.22/Split_1_output_0", "/model.22/Sigmoid_output_0")  # of YOLOv8's export: edges (64, A), scores (18, A)
PREPROCESSING = "RGB, padded with black right and below to a square, resized bilinearly, divided by 255, seen as BGR"


class NetworkInput:
    """What the network reads of an (H, W, 3) RGB image: (1, 3, side, side) float32 in [0, 1], as the package's.

    Each thread needs one of its own: it hands out the same memory at every call. Fresh memory costs more than the
    arithmetic.
    """

    def __init__(self, side: int) -> None:
        self._shape = (side, side)
        self._resized = np.empty((side, side, 3), np.uint8)
        self._channel = np.empty((side, side), np.uint8)
        self._planes = np.empty((1, 3, side, side), np.float32)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        import cv2

        height, width = image.shape[:2]
        longer = max(height, width)
        if height != width:
            image = np.asarray(cv2.copyMakeBorder(image, 0, longer - height, 0, longer - width, cv2.BORDER_CONSTANT),
                               np.uint8)
        cv2.resize(image, self._shape, dst=self._resized)
        for index in range(3):  # RGB is seen as BGR
            cv2.extractChannel(self._resized, 2 - index, dst=self._channel)
            cv2.LUT(self._channel, UNIT_RANGE, dst=self._planes[0, index])
        return self._planes


def decode(
    scores: NDArray[np.float32], boxes: Callable[[NDArray[np.intp]], NDArray[np.float32]],
    width: int, height: int, side: int,
) -> Found:
    """Read one image's (18, A) scores as the package does. `boxes` gives (4, N) centres and sizes of N of A anchors."""
    import cv2

    best = scores.max(axis=0)
    anchors = np.flatnonzero(best >= CANDIDATE_FLOOR)
    inside = _inside(boxes(anchors), width, height, side)
    kept = cv2.dnn.NMSBoxes(inside.tolist(), best[anchors].tolist(), PACKAGE_FLOOR, OVERLAP)
    order = np.asarray(kept, dtype=np.intp).reshape(-1)
    chosen = anchors[order]
    return Found(scores[:, chosen].argmax(axis=0), best[chosen], inside[order], scores.max(axis=1))


def centred_boxes(edges: NDArray[np.float32], anchors: NDArray[np.intp], side: int) -> NDArray[np.float32]:
    """Return (4, N) centres and sizes of some anchors from the network's (64, A) logits.

    The end of YOLOv8's graph (Ultralytics' `Detect` and `DFL`): the distance to each of four edges is the mean of 16
    bins, in strides. There it is worked out for all anchors, here for those that may show something.
    """
    grids = [_grid(side // stride) * stride for stride in STRIDES]
    strides = np.repeat(np.array(STRIDES, np.float32), [grid.shape[1] for grid in grids])[anchors]
    bins = edges[:, anchors].reshape(4, 16, -1)
    weights = np.exp(bins - bins.max(axis=1, keepdims=True))
    distances = np.einsum("ebn,b->en", weights, np.arange(16, dtype=np.float32)) / weights.sum(axis=1) * strides
    low, high = (np.concatenate(grids, axis=1)[:, anchors] + sign * part
                 for sign, part in ((-1, distances[:2]), (1, distances[2:])))
    return np.concatenate([(low + high) / 2, high - low]).astype(np.float32)


def _grid(cells: int) -> NDArray[np.float32]:
    """Return (2, cells²) x and y of the middles of a square's cells, row by row, in cells."""
    y, x = np.mgrid[:cells, :cells].astype(np.float32) + np.float32(0.5)
    return np.stack([x.ravel(), y.ravel()])


def _inside(centred: NDArray[np.float32], width: int, height: int, side: int) -> NDArray[np.float32]:
    """Turn (4, N) centres and sizes of the padded square into (N, 4) corners and sizes inside the image."""
    x, y, w, h = centred
    longer = max(width, height)
    left = np.clip((x - w / 2) * longer / side, 0, width)
    top = np.clip((y - h / 2) * longer / side, 0, height)
    wide = np.minimum(w * longer / side, width - left)
    high = np.minimum(h * longer / side, height - top)
    return np.stack([left, top, wide, high], axis=1)


class Detector:
    """A detector in memory.

    On a CPU one image is one call with one thread, and `threads` calls run side by side: the network gains nothing
    from batches or from threads inside a call, and scores cannot depend on the batch.
    """

    def __init__(self, file: Path, side: int, device: str, threads: int, generation: str = "3.4") -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.side, self.threads, self.generation = side, threads, generation
        providers = _providers(device)
        if len(providers) == 1:  # one image a call: what follows from its size is worked out once
            for name, size in {"batch": 1, "height": side, "width": side}.items():
                options.add_free_dimension_override_by_name(name, size)
        self._session = onnxruntime.InferenceSession(_up_to_head(file), options, providers=providers)
        self._input = self._session.get_inputs()[0].name
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._own = threading.local()

    @property
    def on_gpu(self) -> bool:
        return "CUDAExecutionProvider" in self._session.get_providers()

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Found]:
        """Detect in (H, W, 3) uint8 RGB images of any size. Raises ValueError if a score is not finite."""
        if self.on_gpu:
            outputs = self._run(np.concatenate([self._read(image).copy() for image in images]))
            return [self._decoded(image, *output) for image, *output in zip(images, *outputs, strict=True)]
        with _one_thread_a_call():
            return list(self._pool.map(self._one, images) if self._pool else map(self._one, images))

    def _one(self, image: NDArray[np.uint8]) -> Found:
        return self._decoded(image, *(output[0] for output in self._run(self._read(image))))

    def _read(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.generation == "3.0":
            from harness.evaluators.nudenet_v30 import network_input_v30

            return network_input_v30(image, self.side)
        if not hasattr(self._own, "read"):
            self._own.read = NetworkInput(self.side)
        planes: NDArray[np.float32] = self._own.read(image)
        return planes

    def _run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = self._session.run(None, {self._input: inputs})
        return outputs

    def _decoded(self, image: NDArray[np.uint8], *outputs: NDArray[np.float32]) -> Found:
        if not all(np.isfinite(output).all() for output in outputs):  # NaN compares as no detection
            raise ValueError("the detector's output is not finite")
        height, width = image.shape[:2]
        if len(outputs) == 1:  # the whole graph's: 4 of the box and the scores, (22, A)
            (whole,) = outputs
            return self._decode(whole[4:], lambda anchors: whole[:4, anchors], width, height, self.side)
        edges, scores = outputs
        return self._decode(scores, partial(centred_boxes, edges, side=self.side), width, height, self.side)

    @property
    def _decode(self) -> Callable[..., Found]:
        if self.generation == "3.0":
            from harness.evaluators.nudenet_v30 import decode_v30

            return decode_v30
        return decode


def _up_to_head(file: Path) -> bytes:
    """Return a model without the end that turns every anchor's logits into a box, a tenth of its time.

    A model whose export names things otherwise is returned whole.
    """
    import onnx
    import onnx.utils

    model = onnx.load(file)
    known = {name for node in model.graph.node for name in node.output}
    if known.issuperset(HEAD):
        model = onnx.utils.Extractor(model).extract_model([one.name for one in model.graph.input], list(HEAD))
    read: bytes = model.SerializeToString()
    return read


@contextmanager
def _one_thread_a_call() -> Iterator[None]:
    """Keep OpenCV's own threads, which would only get in the way of ours, out of it."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _providers(device: str) -> list[Any]:
    import onnxruntime

    if device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        index = int(device.partition(":")[2] or 0)
        return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
