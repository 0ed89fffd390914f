"""The same prompt under every other method of a model and bench, and whether it started from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.comparisons.matched import SHARED, noise_between
from harness.records import ImageRow
from harness.report.run import Run
from harness.view.columns import PAGE, Columns
from harness.view.lookup import Lookup


def same_images(run: Run, columns: Columns, n: int, others: Mapping[str, tuple[Run, Lookup | None]]
                ) -> dict[str, Any] | None:  # fmt: skip
    """Return, for the n-th page of images, those of other cells with the same prompt and repeat.

    `others` are by cell id, without a lookup where they are not read yet: those are `pending`. Of each image there is
    `[index, hash, veiled, letters, status, noise]`, or null: `letters` are verdicts in the order of `judges`, `noise`
    is 1 where it is the same; a cell's `noise` says why it is not. None beyond the last page.
    """
    rows = columns.rows[n * PAGE : (n + 1) * PAGE]
    if not rows or n < 0:
        return None
    return {
        "version": columns.version,
        "start": n * PAGE,
        "pending": [cell for cell, (_, one) in others.items() if one is None],
        "cells": [_of_cell(run, rows, other, one) for other, one in others.values() if one is not None],
    }


def _of_cell(run: Run, rows: Sequence[ImageRow], other: Run, there: Lookup) -> dict[str, Any]:
    found = [there.find(row) for row in rows]
    apart = sum(not one[-1] for one in found if one is not None)
    may_share = noise_between(run, other)[0] == SHARED
    images = [one and [*one[:-1], int(may_share and one[-1])] for one in found]
    return {"cell": other.cell_id, "judges": list(there.judges), "noise": noise_between(run, other, apart)[1],
            "images": images}  # fmt: skip
