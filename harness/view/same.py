"""The same prompt and noise under every other method of a model and bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.records import ImageKey, ImageRow
from harness.view.columns import Columns, hash_of
from harness.view.details import PAGE


def same_images(columns: Columns, n: int, others: Mapping[str, Columns | None]) -> dict[str, Any] | None:
    """Return, for the n-th page of images, those of other cells with the same prompt, repeat and seed.

    `others` are columns by cell id, None where they are not read yet: those are `pending`. Of each image there is
    `[index, hash, veiled, letters]`, a letter a judge in the order of `judges`, or null. None beyond the last page.
    """
    rows = columns.rows[n * PAGE : (n + 1) * PAGE]
    if not rows or n < 0:
        return None
    known = {cell: one for cell, one in others.items() if one is not None}
    return {
        "version": columns.version,
        "start": n * PAGE,
        "pending": [cell for cell, one in others.items() if one is None],
        "cells": [
            {"cell": cell, "judges": [name for name, judge in one.judges.items() if judge.is_judge],
             "images": [_partner(one, row) for row in rows]}
            for cell, one in known.items()
        ],
    }  # fmt: skip


def _partner(other: Columns, row: ImageRow) -> list[Any] | None:
    i = other.index.get(ImageKey(row.prompt_id, row.repeat))
    if i is None or other.rows[i].seed != row.seed:
        return None
    letters = "".join(judge.verdicts[i] for judge in other.judges.values() if judge.is_judge)
    return [i, hash_of(other.rows[i]), int(other.veiled[i]), letters]
