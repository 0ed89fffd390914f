"""What changes in a results folder while someone looks at it, as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from harness.view.library import Library, Stamp, row_stamp, stamp

SECONDS = 2.0  # between looks at the folder
SLICES = 8  # of a wait, after each of which the end of the server is noticed
QUIET = 10  # looks without a change, after which a comment keeps the line open


def stamps(library: Library) -> dict[str, Stamp]:
    """Return when each cell was written to last."""
    return {cell: (*stamp(folder), *row_stamp(folder)) for cell, folder in library.folders().items()}


def changed(before: dict[str, Stamp], now: dict[str, Stamp]) -> list[str]:
    """Return the cells that are new, gone, or no longer as they were."""
    return sorted(cell for cell in before.keys() | now.keys() if before.get(cell) != now.get(cell))


async def events(
    library: Library, ended: Callable[[], bool], seconds: float = SECONDS, made: Callable[[], int] = lambda: 0
) -> AsyncIterator[str]:
    """Yield an event for every change, the ids of the cells concerned, until the server has `ended`.

    `made` counts what was read in the background: the board changes then, and no cell.
    """
    n_made = made()
    before = await asyncio.to_thread(stamps, library)
    yield "retry: 2000\nevent: ready\ndata: {}\n\n"
    quiet = 0
    while not ended():
        for _ in range(SLICES):
            await asyncio.sleep(seconds / SLICES)
            if ended():
                return
        now = await asyncio.to_thread(stamps, library)
        cells, before, quiet = changed(before, now), now, quiet + 1
        is_read, n_made = made() != n_made, made()
        if cells or is_read:
            yield f"event: changed\ndata: {json.dumps({'cells': cells})}\n\n"
        elif quiet >= QUIET:
            yield ": still here\n\n"
        quiet = 0 if cells or is_read or quiet >= QUIET else quiet
