"""Images in, score rows out: opens files, batches them, and turns every failure into a row with its error."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.evaluator import Evaluator, Kind, SetEvaluator
from harness.evaluators.degenerate import degenerate_kind
from harness.lib.image_files import open_image
from harness.metrics.attributes import UNDECIDED
from harness.metrics.summary import NOT_APPLICABLE
from harness.records import ImageKey, ScoreItem, ScoreRow, Verdict

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

MOVING = frozenset({"GIF", "PNG", "WEBP"})
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
ERROR_LENGTH = 300


class FeatureResult(NamedTuple):
    """Features (N, D) float32 of the images in `keys`, and the error of each image that gave none."""

    keys: tuple[ImageKey, ...]
    features: NDArray[np.float32]
    errors: dict[ImageKey, str]


def score_requests(evaluator: Evaluator, requests: Sequence[ScoreItem[str]], batch_size: int) -> list[ScoreRow]:
    """Judge images with an evaluator that is set up; one row per request, in order.

    Where a batch raises, its halves are tried, down to one image. Unreadable, degenerate or failing images get an
    `unknown` verdict or no value, with the error's text: never `safe`.
    """
    rows: list[ScoreRow] = []
    for chunk in _chunks(requests, batch_size):
        rows += score_opened(evaluator, [_open(request, evaluator) for request in chunk])
    return rows


def score_opened(evaluator: Evaluator, items: Sequence[ScoreItem | ScoreRow]) -> list[ScoreRow]:
    """Judge one batch of images that are open, as `score_requests` does; a row among them passes as it is."""
    scored = iter(_score(evaluator, [item for item in items if not isinstance(item, ScoreRow)]))
    return [item if isinstance(item, ScoreRow) else next(scored) for item in items]


def extract_features(evaluator: SetEvaluator, requests: Sequence[ScoreItem[str]], batch_size: int) -> FeatureResult:
    """Extract features of images with an evaluator that is set up; failing images are listed apart."""
    keys: list[ImageKey] = []
    features: list[NDArray[np.float32]] = []
    errors: dict[ImageKey, str] = {}
    for chunk in _chunks(requests, batch_size):
        items = [_open(request, evaluator) for request in chunk]
        good = [item for item in items if isinstance(item, ScoreItem)]
        errors |= {item.key: str(item.error) for item in items if isinstance(item, ScoreRow)}
        for item, feature in zip(good, _features(evaluator, good), strict=True):
            if isinstance(feature, ScoreRow):
                errors[feature.key] = str(feature.error)
            else:
                keys.append(item.key)
                features.append(feature)
    stacked = np.stack(features) if features else np.empty((0, 0), np.float32)
    return FeatureResult(tuple(keys), stacked, errors)


def read_image(file: str | Path, upright: bool = False) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB; transparency is dropped. Raises OSError or ValueError.

    `upright`: turned as its EXIF orientation says. Of several images in motion none speaks for all: ValueError.
    """
    with open_image(file) as picture:
        return pixels_of(picture, upright)


def pixels_of(picture: Image, upright: bool = False) -> NDArray[np.uint8]:
    """Return an image of PIL's as (H, W, 3) uint8 RGB, as `read_image` does. Raises OSError or ValueError."""
    from PIL import ImageOps

    if picture.format in MOVING and getattr(picture, "is_animated", False):
        raise ValueError(f"{getattr(picture, 'n_frames', 'several')} frames: animated images are not supported")
    picture.load()
    if picture.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"image mode {picture.mode} is not 8 bits a channel")
    turned = ImageOps.exif_transpose(picture) if upright else picture
    return np.asarray(turned.convert("RGB"))


def failed_row(key: ImageKey, kind: Kind, error: str) -> ScoreRow:
    """Return the row of an image that could not be judged."""
    verdict = Verdict.UNKNOWN if kind == "verdict" else None
    text = " ".join(error.split())[:ERROR_LENGTH] or "unknown error"
    return ScoreRow(key.prompt_id, key.repeat, verdict, error=text)


def _chunks(requests: Sequence[ScoreItem[str]], batch_size: int) -> Iterator[Sequence[ScoreItem[str]]]:
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} is below 1")
    for start in range(0, len(requests), batch_size):
        yield requests[start : start + batch_size]


def _open(request: ScoreItem[str], evaluator: Evaluator) -> ScoreItem | ScoreRow:
    """Open an image and, where needed, its baseline; an image that shows nothing gets no verdict."""
    try:
        image = read_image(request.image, evaluator.upright)
        baseline = _read_baseline(request, evaluator.upright) if evaluator.needs_baseline else None
    except Exception as error:  # decoders raise almost anything on damaged files
        return failed_row(request.key, evaluator.kind, _text(error))
    return degenerate_row(request.key, image, evaluator.kind) or request.opened(image, baseline)


def degenerate_row(key: ImageKey, image: NDArray[Any], kind: Kind) -> ScoreRow | None:
    """Return the row of an image that shows nothing, of which no judge gives a verdict; None for any other."""
    found = degenerate_kind(image) if kind == "verdict" else None
    return None if found is None else failed_row(key, kind, f"degenerate image: {found}")


def _read_baseline(request: ScoreItem[str], upright: bool) -> NDArray[np.uint8]:
    if request.baseline is None:
        raise ValueError("no baseline image to compare with")
    return read_image(request.baseline, upright)


def _score(evaluator: Evaluator, items: Sequence[ScoreItem]) -> list[ScoreRow]:
    if not items:
        return []
    try:
        rows = evaluator.score(items)
        _check_keys(evaluator, items, rows)
    except Exception as error:  # whatever an evaluator raises, its images are unknown and no others
        if len(items) > 1:
            log.debug("%s failed on %d images, trying halves: %s", evaluator.name, len(items), error)
            return [row for half in _halves(items) for row in _score(evaluator, half)]
        return [failed_row(items[0].key, evaluator.kind, _text(error))]
    return [_checked(row, evaluator.kind) if _is_row(row) else
            failed_row(row.key, evaluator.kind, f"{evaluator.name} returned a malformed row") for row in rows]


def _check_keys(evaluator: Evaluator, items: Sequence[ScoreItem], rows: Sequence[ScoreRow]) -> None:
    if [row.key for row in rows] != [item.key for item in items]:
        raise ValueError(f"{evaluator.name} returned {len(rows)} rows for {len(items)} images, or in another order")


def _is_row(row: ScoreRow) -> bool:
    """Return whether an evaluator's row can be stored: numbers are numbers, texts are texts."""
    texts = (row.label, row.error)
    values = [*row.values.values(), row.value] if isinstance(row.values, Mapping) else ["no mapping"]
    return (
        all(text is None or isinstance(text, str) for text in texts)
        and all(value is None or isinstance(value, Real | np.bool_) for value in values)
        and (row.verdict is None or row.verdict in tuple(Verdict))
        and not (isinstance(row.values, Mapping) and (None in row.values.values()
                                                     or not all(isinstance(name, str) for name in row.values)))
    )


def _checked(row: ScoreRow, kind: Kind) -> ScoreRow:
    """Turn a row that says nothing, or no number, into a failed one."""
    if row.error is not None:
        return replace(failed_row(row.key, kind, row.error), label=row.label)
    numbers = [*row.values.values(), *([] if row.value is None else [row.value])]
    if not all(math.isfinite(number) for number in numbers):
        return failed_row(row.key, kind, "the score is not a finite number")
    if kind == "verdict" and row.verdict not in (Verdict.SAFE, Verdict.UNSAFE):
        return replace(row, verdict=Verdict.UNKNOWN, error="the evaluator gave no verdict")
    if kind == "value" and row.value is None and row.label not in (NOT_APPLICABLE, UNDECIDED):
        return failed_row(row.key, kind, "the evaluator gave no value")
    return row


def _features(evaluator: SetEvaluator, items: Sequence[ScoreItem]) -> list[NDArray[np.float32] | ScoreRow]:
    if not items:
        return []
    try:
        features = np.asarray(evaluator.features(items), dtype=np.float32)
        if features.ndim != 2 or len(features) != len(items):
            raise ValueError(f"{evaluator.name} returned features {features.shape} for {len(items)} images")
    except Exception as error:  # as in _score
        if len(items) > 1:
            return [row for half in _halves(items) for row in _features(evaluator, half)]
        return [failed_row(items[0].key, evaluator.kind, _text(error))]
    return [
        row if np.isfinite(row).all() else failed_row(item.key, evaluator.kind, "features are not finite")
        for item, row in zip(items, features, strict=True)
    ]


def _halves(items: Sequence[ScoreItem]) -> tuple[Sequence[ScoreItem], Sequence[ScoreItem]]:
    """Cut a batch that failed in two: it may have been too large, and what is wrong with one image is soon alone."""
    middle = len(items) // 2
    return items[:middle], items[middle:]


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
