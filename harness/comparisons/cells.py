"""`compare_cells`: two cells as one JSON-able record, for pages that show them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.comparisons.compared import Asked, compare_sides, in_one_family
from harness.comparisons.export import flips_record, pair_record
from harness.comparisons.sides import load_sides


def compare_cells(a: str | Path, b: str | Path, metrics: Sequence[str] = (), categories: bool = True) -> dict[str, Any]:
    """Compare the cells in two folders: differences a - b, by category, and the images that flip.

    Returns plain values: `a`, `b`, `bench`, `pairing` (what is paired, and whether noise is shared), `differences`
    (value_a, value_b, difference, ci_low, ci_high, p_value, p_adjusted, test, better: a, b or None), `not_compared`
    with reasons, `categories` and `flips` by judge, `family`: over which tests p values are adjusted. `metrics` names
    the only ones to compare, which is faster. Raises HarnessError.
    """
    first, second = load_sides([Path(a), Path(b)])
    compared = in_one_family([compare_sides(first, second, Asked(tuple(metrics), categories=categories))])
    (pair,) = compared.pairs
    return {**pair_record(pair), "flips": flips_record(pair), "family": compared.family}
