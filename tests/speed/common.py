"""What the bench scripts share: making images through the harness's own stages, and watching memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from rich.console import Console

from harness.cells.plan import CellPlan, make_plan
from harness.cells.tracker import NoTracker
from harness.cli.compose import compose_jobs
from harness.lib.progress import Board
from harness.pool import Pool
from harness.run import make_cells
from harness.stages import generate

BARE = ("baseline=null", "evaluators=[]", "leaderboard=false", "tracker=disabled")


def plan_images(words: Sequence[str], results: Path) -> CellPlan:
    """Plan one cell of the command line's words: its missing images in order."""
    jobs = compose_jobs([*words, *BARE, f"results={results}"], multirun=False)
    plan = make_plan(make_cells(jobs).cells, results, workers=1, verify=False)
    plan.refuse_if_blocked()
    return plan.cells[0]


def make_slice(pool: Pool, plan: CellPlan, start: int, count: int, shard_size: int | None = None) -> float:
    """Make `count` images of the plan from `start` on, to disk; return the seconds it took."""
    part = replace(plan, missing=(plan.missing or ())[start : start + count])
    with Board("make", Console(file=StringIO())) as board:
        begun = time.perf_counter()
        failures = generate(pool, [part], shard_size, board, NoTracker())
        seconds = time.perf_counter() - begun
    if failures:
        sys.exit(f"failed: {failures[0].error}")
    return seconds


@dataclass(frozen=True)
class Peaks:
    """Peak resident megabytes of a command and of the largest Ray worker below it."""

    driver_mb: float
    worker_mb: float
    seconds: float


def watch(words: Sequence[str]) -> Peaks:
    """Run `python -m harness` with these words and follow the peak memory of the driver and its workers."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "harness", *words], stdout=subprocess.DEVNULL)
    driver = worker = 0.0
    while process.poll() is None:
        driver = max(driver, _peak_mb(process.pid))
        worker = max([worker, *(_peak_mb(pid) for pid in ray_workers_below(process.pid))])
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: python -m harness {' '.join(words)}")
    return Peaks(driver, worker, time.perf_counter() - begun)


def _peak_mb(pid: int) -> float:
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def ray_workers_below(root: int) -> list[int]:
    """Return the process ids of the busy or idle actors that a driver started."""
    return [pid for pid in descendants(root) if _read(f"/proc/{pid}/cmdline").startswith("ray::Actor")]


def descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        fields = _read(f"/proc/{name}/stat").rpartition(")")[2].split()
        if fields:
            parents.setdefault(int(fields[1]), []).append(int(name))
    found, queue = [], [root]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # the process has ended in between
        return ""
