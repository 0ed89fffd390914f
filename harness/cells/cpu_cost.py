"""What a full-size model costs on a CPU, said in the plan before anything starts. Imports no torch."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from harness.lib.formatting import duration
from harness.models.loading import placement_problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.cells.cell import Cell

_TRIES = 4  # the first one warms up, and others may meet a busy machine
_SIDE = 768  # of the matrices multiplied: 0.9 GFLOP, which takes a slow core a tenth of a second


@lru_cache(maxsize=1)
def gflop_per_second() -> float:
    """Return the GFLOP/s of a float32 matrix product here, the best of a few: more than a denoiser reaches."""
    import numpy as np

    matrix = np.ones((_SIDE, _SIDE), dtype=np.float32)
    return max(2e-9 * _SIDE**3 / _seconds_of_product(matrix) for _ in range(_TRIES))


def _seconds_of_product(matrix: NDArray[np.float32]) -> float:
    start = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - start


def tflop_per_image(cell: Cell, rows: float) -> float | None:
    """Return the TFLOP of one image with `rows` denoiser rows per step; None if the model's config does not say."""
    per_row, spec = cell.spec.model.get("tflop_per_step"), cell.spec.settings
    if not per_row:
        return None
    pixels = spec.height * spec.width / float(cell.spec.model["size"]) ** 2
    return float(per_row) * pixels * rows * spec.num_inference_steps


def seconds_on_cpu(cell: Cell, rows: float) -> float | None:
    """Return the least seconds that one image can take on this CPU."""
    tflop = tflop_per_image(cell, rows)
    return None if tflop is None else 1000 * tflop / gflop_per_second()


def cpu_note(cell: Cell, rows: float) -> str | None:
    """Say what an image costs without a GPU, in work, time and memory; None for a model made for CPUs."""
    tflop, params = tflop_per_image(cell, rows), cell.spec.model.get("params")
    if tflop is None:
        return None
    seconds = 1000 * tflop / gflop_per_second()
    memory = f", and its weights take {4e-9 * float(params):.1f} GB in float32" if params else ""
    return (f"model {cell.spec.model['name']} on a CPU: {tflop:.0f} TFLOP an image, at least {duration(seconds)} at "
            f"the {gflop_per_second():.0f} GFLOP/s of a matrix product here{memory}")


def cpu_problem(cell: Cell) -> str | None:
    """Return the line that refuses a model whose dtype no CPU should run."""
    problem = placement_problem(cell.spec.model, "cpu")
    return str(problem) if problem else None
