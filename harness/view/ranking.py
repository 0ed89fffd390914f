"""The ranks of the board's rows, with their intervals: read of every image's verdict, and so in the background."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from harness.report.ranks import Ranked, ranked
from harness.report.run import Run

Ranks = Mapping[str, Ranked]
NONE: Ranks = {}


class Ranking:
    """Ranks of the rows that were asked for last. `made` counts how often they became known: a board is older then."""

    def __init__(self) -> None:
        self.made = 0
        self._lock = threading.Lock()
        self._runs: list[Run] | None = None
        self._ranks: Future[dict[str, Ranked]] | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ranks")

    def known(self, runs: list[Run]) -> Ranks:
        """Return the ranks by cell id; none while they are being read."""
        ranks = self._begun(runs)
        return ranks.result() if ranks.done() else NONE

    def waited_for(self, runs: list[Run]) -> Ranks:
        """Return the ranks by cell id, once they are read."""
        return self._begun(runs).result()

    def close(self) -> None:
        """Read nothing more."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _begun(self, runs: list[Run]) -> Future[dict[str, Ranked]]:
        with self._lock:
            if self._ranks is None or self._runs is not runs:
                self._runs, self._ranks = runs, self._reader.submit(ranked, runs)
                self._ranks.add_done_callback(self._count)
            return self._ranks

    def _count(self, _: Future[dict[str, Ranked]]) -> None:
        self.made += 1
