"""Batches of one shape through a session: padding, isolating a failing item, and out-of-memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import HarnessError
from harness.records import GenerationSettings, ImageItem, ImageRow, Origin, Status, WrittenImage

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

SYSTEMIC = 4  # so many images failing one by one, with nothing else in the batch, are not a coincidence


class GeneratedImage(Protocol):
    """One image as a session returns it: (H, W, 3) uint8 or None, "ok" or "refused", and flags."""

    @property
    def image(self) -> np.ndarray | None: ...
    @property
    def status(self) -> Any: ...
    @property
    def flags(self) -> Sequence[str]: ...


class Session(Protocol):
    """A model with its methods attached."""

    @property
    def artifact(self) -> str | None:
        """Return what names the content of the artifacts in use, None if there is none."""

    def generate(self, items: Sequence[ImageItem], settings: GenerationSettings) -> Sequence[GeneratedImage]: ...


class BrokenDevice(Exception):
    """The process cannot compute any more, whatever it is given; another one can."""


class EveryImageFailed(Exception):
    """No image of a whole batch could be made, each tried alone."""


@dataclass(frozen=True)
class Outcome:
    """What became of one item; `seconds` is its share of the batch that it was made in."""

    item: ImageItem
    image: np.ndarray | None
    status: Status
    flags: tuple[str, ...] = ()
    error: str | None = None
    seconds: float = 0.0
    batch_size: int = 0  # none: it was not made here

    def row(self, written: WrittenImage | None, origin: Origin) -> ImageRow:
        """Return what is stored of it."""
        item, file = self.item, written._asdict() if written else {}
        return ImageRow(
            prompt_id=item.key.prompt_id, repeat=item.key.repeat, prompt=item.prompt, category=item.category,
            seed=item.seed, guidance_scale=item.guidance_scale,
            file=file.get("file"), sha256=file.get("sha256"), bytes=file.get("size"),
            status=self.status, error=self.error, seconds=self.seconds, batch_size=self.batch_size, flags=self.flags,
            worker=origin.worker, cell_id=origin.cell_id, artifact=origin.artifact, host=origin.host,
            hardware=origin.hardware, versions=origin.versions,
        )  # fmt: skip


class BatchRunner:
    """Runs items of one cell in batches padded to one size, so that the same item gives the same bytes in any."""

    def __init__(self, session: Session, settings: GenerationSettings, free: Callable[[], None]) -> None:
        self._session = session
        self._settings = settings
        self._free = free

    @property
    def batch_size(self) -> int:
        """Return the size in use: what was asked for, or less after memory ran out."""
        return self._settings.batch_size

    def run(self, batch: Sequence[ImageItem]) -> list[Outcome]:
        """Make a batch; items that fail alone have status `error`. Raises EveryImageFailed, BrokenDevice."""
        outcomes = [outcome for group in _by_size(batch) for outcome in self._run(group)]
        failed = [outcome for outcome in outcomes if outcome.status is Status.ERROR]
        if len(failed) == len(outcomes) >= SYSTEMIC:
            raise EveryImageFailed(f"none of {len(failed)} images could be generated: {failed[0].error}")
        return outcomes

    def _run(self, items: Sequence[ImageItem]) -> list[Outcome]:
        if len(items) > self.batch_size:
            head = self._run(items[: self.batch_size])
            return head + self._run(items[len(head) :])
        try:
            return self._padded(items)
        except HarnessError:
            raise
        except Exception as error:  # a method, a pipeline and a kernel can raise anything
            if _is_broken(error):
                raise BrokenDevice(describe(error)) from error
            if is_out_of_memory(error) and self.batch_size > 1:
                message = describe(error)
            elif len(items) == 1:
                log.warning("image %s failed", items[0].key.file_name, exc_info=True)
                return [_failed(items[0], error, self.batch_size)]
            else:
                log.info("a batch of %d failed, retrying in halves: %s", len(items), describe(error))
                message = None
        # Outside of the handler, so that the traceback no longer holds the tensors.
        if message is not None:
            self._shrink(message)
            return self._run(items)
        half = (len(items) + 1) // 2
        return self._run(items[:half]) + self._run(items[half:])

    def _padded(self, items: Sequence[ImageItem]) -> list[Outcome]:
        size = self.batch_size
        padding = [items[index % len(items)] for index in range(size - len(items))]
        started = time.perf_counter()
        made = self._session.generate([*items, *padding], self._sized(items[0]))
        seconds = (time.perf_counter() - started) / len(items)
        if len(made) != size:
            raise RuntimeError(f"{len(made)} images for a batch of {size}")
        return [_outcome(item, one, seconds, size) for item, one in zip(items, made, strict=False)]

    def _sized(self, item: ImageItem) -> GenerationSettings:
        if item.size is None:
            return self._settings
        return replace(self._settings, width=item.size[0], height=item.size[1])

    def _shrink(self, reason: str) -> None:
        smaller = self.batch_size // 2
        log.warning("out of memory at batch size %d, continuing with %d: %s", self.batch_size, smaller, reason)
        self._settings = replace(self._settings, batch_size=smaller)
        self._free()


def _by_size(items: Sequence[ImageItem]) -> list[list[ImageItem]]:
    """Part items into groups of one size, in the order in which the sizes appear: a batch has one shape."""
    groups: dict[tuple[int, int] | None, list[ImageItem]] = {}
    for item in items:
        groups.setdefault(item.size, []).append(item)
    return list(groups.values())


def describe(error: BaseException) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def _outcome(item: ImageItem, made: GeneratedImage, seconds: float, batch_size: int) -> Outcome:
    status, flags = Status(made.status), tuple(made.flags)
    error = ", ".join(flags) or "no image" if status is Status.ERROR else None
    return Outcome(item, made.image, status, flags, error, seconds, batch_size)


def _failed(item: ImageItem, error: Exception, batch_size: int) -> Outcome:
    return Outcome(item, None, Status.ERROR, error=describe(error), batch_size=batch_size)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error is a device's, that its memory does not suffice."""
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def _is_broken(error: Exception) -> bool:
    return type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error")
