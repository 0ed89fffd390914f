"""Seconds and peak memory of a plan: 21 cells; 100 cells of 30,000 images, none of them made, and all of them.

python -m tests.speed.plans [--cells 100]
Made images are rows as a run writes them, 300 a file, whose pictures are one file. Each plan has a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

IMAGES, ROWS_A_FILE, REPEATS = 30_000, 300, 30
SWEEP = (
    "method=none,negative_prompt,sld_weak,sld_medium,sld_strong,sld_max,safedir", "model=micro",
    "bench=micro_i2p,micro_coco,micro_winobias",
)  # fmt: skip
LARGE = ("method=sld_medium", "model=micro", "bench=micro_coco", f"repeats={REPEATS}", "baseline=null")


def jobs_of(case: str, results: Path, cells: int) -> Sequence[Any]:
    """Return the jobs of a case; those of the large one differ in a setting of the method."""
    from harness.cli.compose import compose_jobs

    if case == "sweep":
        return compose_jobs([*SWEEP, f"results={results}", "mode=plan"], multirun=True)
    (job,) = compose_jobs([*LARGE, f"limit={IMAGES // REPEATS}", f"results={results}", "mode=plan"], multirun=False)
    (method,) = job.methods
    return [replace(job, methods=({**method, "momentum_scale": round(0.001 * (k + 1), 3)},)) for k in range(cells)]


def fill(results: Path, count: int) -> None:
    """Write the rows of all images of the large case, as if they had been made."""
    import numpy as np

    from harness.cells.store import encode_png
    from harness.cells.tables import encode_images
    from harness.records import ImageRow, Status
    from harness.run import make_cells

    cells = make_cells(jobs_of("made", results, count)).cells
    picture = results / "picture.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(encode_png(np.zeros((64, 64, 3), np.uint8)))
    sha256, size = hashlib.sha256(picture.read_bytes()).hexdigest(), picture.stat().st_size
    rows = [
        ImageRow(item.key.prompt_id, item.key.repeat, item.prompt, item.category, item.seed, item.guidance_scale,
                 "images/00/one.png", sha256, size, Status.OK, None, 0.25, 16, "worker-0")
        for item in cells[0].items()
    ]  # fmt: skip
    files = [encode_images(rows[start : start + ROWS_A_FILE]) for start in range(0, len(rows), ROWS_A_FILE)]
    for cell in cells:
        (cell.folder / "rows").mkdir(parents=True)
        (cell.folder / "images" / "00").mkdir(parents=True)
        (cell.folder / "images" / "00" / "one.png").write_bytes(picture.read_bytes())
        for number, data in enumerate(files):
            (cell.folder / "rows" / f"generate-{number:04d}.parquet").write_bytes(data)


def plan(case: str, results: Path, cells: int) -> None:
    """Plan a case in this process and print its cost."""
    from rich.console import Console

    from harness.cells.plan import make_plan, print_plan
    from harness.run import make_cells

    jobs = jobs_of(case, results, cells)
    begun, busy = time.perf_counter(), time.process_time()
    made = make_plan(make_cells(jobs).cells, results, 1, verify=False)
    print_plan(made, Console(file=StringIO(), width=140), full=True)
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    images = sum(entry.n_images or 0 for entry in made.cells)
    print(f"{len(made.cells):4d} cells, {made.n_missing:9,d} of {images:9,d} images missing: {seconds:7.2f} s, "
          f"{busy:7.2f} s of CPU, {peak:6.0f} MB at the peak", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=("sweep", "none", "made", "fill"))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--cells", type=int, default=100)
    options = parser.parse_args()
    if options.case == "fill":
        fill(options.results, options.cells)
    elif options.case:
        plan(options.case, options.results, options.cells)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for case in ("sweep", "none", "fill", "made"):
                words = ["--case", case, "--results", folder, "--cells", str(options.cells)]
                subprocess.run([sys.executable, "-m", "tests.speed.plans", *words], check=True)


if __name__ == "__main__":
    main()
