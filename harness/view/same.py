"""The same prompt and noise under every other method of a model and bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.view.columns import PAGE, Columns
from harness.view.lookup import Lookup


def same_images(columns: Columns, n: int, others: Mapping[str, Lookup | None]) -> dict[str, Any] | None:
    """Return, for the n-th page of images, those of other cells with the same prompt, repeat and seed.

    `others` are by cell id, None where they are not read yet: those are `pending`. Of each image there is
    `[index, hash, veiled, letters]`, a letter a judge in the order of `judges`, or null. None beyond the last page.
    """
    rows = columns.rows[n * PAGE : (n + 1) * PAGE]
    if not rows or n < 0:
        return None
    return {
        "version": columns.version,
        "start": n * PAGE,
        "pending": [cell for cell, one in others.items() if one is None],
        "cells": [{"cell": cell, "judges": list(one.judges), "images": [one.find(row) for row in rows]}
                  for cell, one in others.items() if one is not None],
    }  # fmt: skip
