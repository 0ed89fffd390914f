"""The real command line on the embedded model, killed with SIGKILL, ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cells.store import CellStore
from harness.lib.tensor_headers import FileFault, read_header
from harness.records import Status
from tests.pool.test_resume import executable, is_running
from tests.run.test_run import images
from tests.speed.common import descendants, ray_workers_below
from tests.support.fakes import wait_until

COUNT = 16
WORDS = [
    "method=none", "bench=micro_i2p", f"limit={COUNT}", "batch_size=4", "shard_size=4", "bench.num_inference_steps=4",
    "tracker=disabled", "leaderboard=false", "evaluators=[hazard_judge]", "pool.threads=1",
]  # fmt: skip
INLINE, RAY = ["pool=inline"], ["pool=ray", "pool.workers=2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    results = tmp_path_factory.mktemp("undisturbed")
    assert main([*WORDS, *INLINE, f"results={results}"]) == 0
    return images(results)


@pytest.fixture
def driver(tmp_path, request) -> Iterator[subprocess.Popen[bytes]]:
    """Return the command line in a process of its own, once it has stored the first shard."""
    command = [sys.executable, "-m", "harness", *WORDS, *request.param, f"results={tmp_path}"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    wait_until(lambda: process.poll() is not None or any(tmp_path.glob("runs/*/*/*/*/rows/[!.]*.parquet")))
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("driver", [INLINE], indirect=True)
def test_killed_driver_goes_on_where_it_was(driver, tmp_path, undisturbed):
    driver.kill()
    driver.wait()
    kept = images(tmp_path)
    assert 0 < len(kept) < COUNT
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in kept}
    assert main([*WORDS, *INLINE, f"results={tmp_path}"]) == 0
    assert images(tmp_path) == undisturbed
    # All but the images of the shard that was running are left as they were.
    assert sum((tmp_path / name).stat().st_mtime_ns != time for name, time in times.items()) <= 4


TRAINING = [
    "method=esd_u", "baseline=null", "limit=1", "batch_size=1", "bench.num_inference_steps=2", "evaluators=[]",
    "tracker=disabled", "leaderboard=false", "method.iterations=24", *INLINE,
]  # fmt: skip


def train(words: list[str]) -> None:
    """Train and keep every step, in a process of its own."""
    import harness.training.loop_memory as interruption

    interruption.EVERY_SECONDS, interruption.SAVING_SHARE = 0.0, float("inf")
    sys.exit(main(words))


@pytest.mark.slow  # the default suite stops a training within one process: tests/training/test_interruption.py
def test_training_that_is_killed_nine_times_ends_with_the_same_bytes(tmp_path):
    def artifact(results: Path) -> bytes:
        (file,) = results.rglob("artifact.safetensors")
        return file.read_bytes()

    def steps() -> int:
        files = (tmp_path / "killed").rglob("checkpoint*.safetensors")
        try:
            return max((read_header(file).tensors["losses"].shape[0] for file in files), default=0)
        except FileFault:  # it is just being replaced
            return 0

    processes = multiprocessing.get_context("forkserver")  # imports once what all of them need
    processes.set_forkserver_preload([__name__, "diffusers", "transformers", "harness.pool.engine"])
    assert main([*TRAINING, f"results={tmp_path / 'whole'}"]) == 0
    for _ in range(9):
        before = steps()  # nobody writes now
        process = processes.Process(target=train, args=([*TRAINING, f"results={tmp_path / 'killed'}"],))
        process.start()
        wait_until(lambda: process.exitcode is not None or steps() > before)  # noqa: B023
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert main([*TRAINING, f"results={tmp_path / 'killed'}"]) == 0
    assert artifact(tmp_path / "killed") == artifact(tmp_path / "whole")


MANY = 192  # a storm is over before they are all made, and a dead raylet is noticed before
VICTIMS = {"driver": -signal.SIGKILL, "worker": 0, "raylet": 2, "gcs_server": 2}  # and how the command ends then


def storm_words(results: Path, *pool: str) -> list[str]:
    return [*(word for word in WORDS if not word.startswith("limit=")), f"limit={MANY}", *pool, f"results={results}"]


@pytest.fixture(scope="module")
def undisturbed_storm(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed-storm")
    assert main(storm_words(results, *INLINE)) == 0
    return results


def pids_of(victim: str, driver: int) -> list[int]:
    """Return the processes that a kill may hit, once there are workers."""
    workers = ray_workers_below(driver)
    if victim in ("driver", "worker"):
        return workers and {"driver": [driver], "worker": workers}[victim]
    return workers and [pid for pid in descendants(driver) if executable(pid) == victim]


def done_at(results: Path) -> dict[str, int]:
    """Return when the images that need no work were written."""
    found = {}
    for cell in results.glob("runs/*/*/*/*"):
        rows = CellStore(cell).images()
        files = [cell / str(rows[key].file) for key in CellStore(cell).done()]
        found |= {str(file): file.stat().st_mtime_ns for file in files}
    return found


def started(results: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness", *storm_words(results, *RAY)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with open(log_of(results), "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def log_of(results: Path) -> Path:
    return results.with_name(f"{results.name}.log")


def said(results: Path) -> str:
    return log_of(results).read_text(errors="replace")


def rate(results: Path) -> dict[str, object]:
    (file,) = results.glob("runs/*/*/*/*/summary.json")
    return json.loads(file.read_text())["metrics"]["unsafe_rate/hazard_judge"]


def kill(victim: str, process: subprocess.Popen[bytes], below: set[int], wanted: int, results: Path) -> None:
    """Kill the victim once so many images are there; return when what depends on it has ended."""

    def is_time() -> bool:
        below.update(descendants(process.pid))
        n_images = len(list(results.glob("runs/*/*/*/*/images/*/[!.]*")))
        return process.poll() is not None or (n_images >= wanted and bool(pids_of(victim, process.pid)))

    wait_until(is_time)
    assert process.poll() is None, f"the run ended before its {victim} was killed: {said(results)}"
    os.kill(pids_of(victim, process.pid)[0], signal.SIGKILL)
    if victim != "worker":
        assert process.wait(timeout=100) == VICTIMS[victim], said(results)
        wait_until(lambda: not any(map(is_running, below)), 60, f"processes stayed after the {victim} was killed")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("seed", range(16))
def test_storm_of_kills_loses_nothing_changes_nothing_and_makes_nothing_twice(seed, tmp_path, undisturbed_storm):
    """Two or three kills of driver, worker, raylet or head, each after some more images; then the command again."""
    draw, done, below = random.Random(seed), dict[str, int](), set[int]()
    process: subprocess.Popen[bytes] | None = None
    try:
        for victim in draw.choices(list(VICTIMS), k=draw.choice([2, 2, 3])):
            if process is None or process.poll() is not None:
                process = started(tmp_path)
                below.clear()
            wanted = len(images(tmp_path)) + draw.randint(0, 6)
            assert wanted < MANY, "all images were made before the death of a process was noticed: raise MANY"
            kill(victim, process, below, wanted, tmp_path)
            done = done_at(tmp_path) | done
        assert process is not None and process.wait(timeout=400) == VICTIMS[victim], said(tmp_path)
    finally:
        if process is not None:
            process.kill()
            process.wait()
    wait_until(lambda: not any(map(is_running, below)), 60)
    assert main(storm_words(tmp_path, *INLINE)) == 0
    assert images(tmp_path) == images(undisturbed_storm) and rate(tmp_path) == rate(undisturbed_storm)
    assert {file: time for file, time in done_at(tmp_path).items() if file in done} == done
    (cell,) = tmp_path.glob("runs/*/*/*/*")
    rows = CellStore(cell).images()
    assert len(rows) == MANY and all(row.status is Status.OK for row in rows.values())
    assert CellStore(cell).strays() == list(tmp_path.glob(".*")) == []


@pytest.mark.slow  # the default suite kills a worker of fakes: tests/pool/test_pool_ray.py
@pytest.mark.ray
@pytest.mark.parametrize("driver", [RAY], indirect=True)
def test_killed_worker_is_replaced_and_two_workers_make_the_bytes_of_one(driver, tmp_path, undisturbed):
    (victim, *_) = ray_workers_below(driver.pid)
    os.kill(victim, signal.SIGKILL)
    assert driver.wait(timeout=400) == 0
    assert images(tmp_path) == undisturbed
