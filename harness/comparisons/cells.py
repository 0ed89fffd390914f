"""`compare_cells`: two cells as one JSON-able record, for pages that show them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.comparisons.compared import Asked, compare_sides, in_one_family
from harness.comparisons.export import flips_record, pair_record
from harness.comparisons.sides import Side, load_side, named_apart

KEPT = 2  # cells that are held for the next comparison: tens of MB each at 30,000 images
_FILES = ("summary.json", "verdicts.parquet", "rows")


def compare_cells(a: str | Path, b: str | Path, metrics: Sequence[str] = (), categories: bool = True) -> dict[str, Any]:
    """Compare the cells in two folders: differences a - b, by category, and the images that flip.

    Returns plain values: `a`, `b`, `bench`, `pairing` (what is paired, and whether noise is shared), `differences`
    (value_a, value_b, difference, ci_low, ci_high, p_value, p_adjusted, test, better: a, b or None), `not_compared`
    with reasons, `categories` and `flips` by judge, `family`: over which tests p values are adjusted. `metrics` names
    the only ones to compare, which is faster. Cells just read are read again only if they changed. Raises HarnessError.
    """
    return compare_read(_side(Path(a).resolve()), _side(Path(b).resolve()), metrics, categories)


def compare_read(a: Side, b: Side, metrics: Sequence[str] = (), categories: bool = True) -> dict[str, Any]:
    """Compare two cells that are read already, as `compare_cells` does. Raises HarnessError."""
    first, second = named_apart([a, b])
    compared = in_one_family([compare_sides(first, second, Asked(tuple(metrics), categories=categories))])
    (pair,) = compared.pairs
    return {**pair_record(pair), "flips": flips_record(pair), "family": compared.family}


def _side(folder: Path) -> Side:
    return _read(folder, tuple(_stamp(folder / name) for name in _FILES))


@lru_cache(maxsize=KEPT)
def _read(folder: Path, stamps: tuple[int, ...]) -> Side:
    return load_side(folder)


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
