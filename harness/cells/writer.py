"""Encodes and writes images on threads of its own, so that the denoiser never waits for the disk."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from harness.cells.store import CellStore, WrittenImage
from harness.errors import StorageError
from harness.lib.atomic import is_passing
from harness.records import ImageKey

if TYPE_CHECKING:
    import numpy as np


class ImageWriter:
    """A bounded queue of images to write; `submit` waits only when `capacity` images are in it."""

    def __init__(self, threads: int = 2, capacity: int = 128) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="image-writer")
        self._room = threading.BoundedSemaphore(capacity)
        self._failure: StorageError | None = None

    def submit(self, store: CellStore, key: ImageKey, image: np.ndarray) -> Future[WrittenImage]:
        """Queue one image. Raises the StorageError of an earlier write, so that a full disk ends the run early."""
        if self._failure is not None:
            raise self._failure
        self._room.acquire()
        future = self._pool.submit(store.write_image, key, image)
        future.add_done_callback(self._finished)
        return future

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        self._pool.shutdown(wait=True)

    def _finished(self, future: Future[WrittenImage]) -> None:
        self._room.release()
        error = future.exception()
        if isinstance(error, StorageError) and not is_passing(error):
            self._failure = error
