"""What killed runs leave half done beside whole files: found and removed by the next run, which holds the folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from harness.lib.atomic import TEMPORARY_SUFFIX, stray_files

OF_RUNS = (".probe-*", ".lease-clock-*", f".lease.*{TEMPORARY_SUFFIX}")  # in the results folder itself
OF_CELLS = (f".*{TEMPORARY_SUFFIX}", f"rows/.*{TEMPORARY_SUFFIX}", f"scores/*/.*{TEMPORARY_SUFFIX}")


def clear_strays(results: Path, cells: Iterable[Path], interrupted: Iterable[Path]) -> int:
    """Remove them from the results folder, its artifacts and the cells; return how many there were.

    Only the `interrupted` cells, those that miss images, are searched image by image.
    """
    count = 0
    for file in _strays(results, cells, interrupted):
        with suppress(OSError):
            file.unlink()
            count += 1
    return count


def _strays(results: Path, cells: Iterable[Path], interrupted: Iterable[Path]) -> Iterator[Path]:
    for pattern in OF_RUNS:
        yield from results.glob(pattern)
    yield from stray_files(results / "artifacts")
    for cell in cells:
        for pattern in OF_CELLS:
            yield from cell.glob(pattern)
    for cell in interrupted:
        yield from stray_files(cell)
