"""What is known of single images: prompt, seed, what every evaluator said, and the boxes that detectors drew."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from harness.cells.tables import boxes_at
from harness.records import TRUNCATED, ImageRow
from harness.view.columns import PAGE, Columns
from harness.view.judge_column import JudgeColumn

MAX_BOXES = 60  # of one evaluator on one image
MAX_TEXT = 4000  # letters of a prompt or an error


def details(columns: Columns, n: int) -> dict[str, Any] | None:
    """Return the n-th page of images as JSON; None beyond the last one."""
    rows = columns.rows[n * PAGE : (n + 1) * PAGE]
    if not rows or n < 0:
        return None
    images = [_detail(columns, n * PAGE + i, row) for i, row in enumerate(rows)]
    return {"version": columns.version, "start": n * PAGE, "images": images}


def _detail(columns: Columns, i: int, row: ImageRow) -> dict[str, Any]:
    return {
        "id": row.prompt_id,
        "repeat": row.repeat,
        "prompt": row.prompt[:MAX_TEXT],
        "category": list(row.category),
        "seed": str(row.seed),  # a browser's numbers have 53 bits
        "guidance_scale": row.guidance_scale,
        "status": row.status.value,
        "error": row.error[:MAX_TEXT] if row.error else None,
        "cut": TRUNCATED in row.flags,
        "flags": list(row.flags),
        "seconds": row.seconds,
        "file": row.file,
        "hash": columns.shown_hash(i),
        "veiled": columns.veiled[i] == "1",
        "judges": {name: _said(columns, one, i) for name, one in columns.judges.items()},
    }


def _said(columns: Columns, judge: JudgeColumn, i: int) -> dict[str, Any]:
    """Return an evaluator's verdict letter and score of an image and, where they are kept, its label, error, boxes."""
    number = float(judge.scores[i])
    said: dict[str, Any] = {"verdict": judge.verdicts[i], "score": None if number != number else number}
    row = int(judge.at[i])
    if columns.table is None or row < 0:
        return said
    for name in ("label", "error", "value"):
        if name in columns.table.column_names:
            value = columns.table[name][row].as_py()
            said[name] = value[:MAX_TEXT] if isinstance(value, str) else value
    boxes = boxes_at(columns.table, row)
    said["n_boxes"] = len(boxes)
    said["boxes"] = [asdict(box) for box in sorted(boxes, key=lambda box: -box.score)[:MAX_BOXES]]
    return said
