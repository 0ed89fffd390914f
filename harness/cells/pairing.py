"""Two runs are compared image by image: that needs the same prompts, the same noise and as many steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.cells.cell import Cell
from harness.errors import IncompatibleError

SAMPLING = {"num_inference_steps": "steps", "seed": "noise (seed", "seeds": "noise (seed_name", "height": "height",
            "width": "width", "size": "size"}  # fmt: skip


def check_paired(cell: Cell, baseline: Cell) -> None:
    """Refuse a baseline whose images are no partners of the cell's. The IncompatibleError names what differs."""
    ours, other = _plain(cell), _plain(baseline)
    differ = [f"{words}{')' if '(' in words else ''}: {ours.get(key)} and {other.get(key)}"
              for key, words in SAMPLING.items() if ours.get(key) != other.get(key)]  # fmt: skip
    if ours["prompts"] != other["prompts"]:
        differ.insert(0, f"prompts: lists {str(ours['prompts'])[:12]} and {str(other['prompts'])[:12]}")
    if not differ and (n := _other_seeds(cell, baseline)):
        differ.append(f"noise: {n} images of the same prompt have different seeds")
    if differ:
        raise IncompatibleError(
            f"{baseline.folder} cannot be a baseline for {cell.folder}: they differ in {'; '.join(differ)}.",
            "Use a run of the same bench, steps and seed.",
        )


def _plain(cell: Cell) -> Mapping[str, Any]:
    identity, bench = dict(cell.identity), cell.identity.get("bench") or {}
    return {**identity, "prompts": bench.get("prompts"), "seeds": identity.get("seeds") or bench.get("name")}


def _other_seeds(cell: Cell, baseline: Cell) -> int:
    """Count the images of both that were made here, from other seeds."""
    ours, other = cell.store.images(), baseline.store.images()
    made = [(ours[key], other[key]) for key in ours.keys() & other.keys()]
    return sum(a.seed != b.seed for a, b in made if a.batch_size and b.batch_size)
