"""The real command line on the embedded model, killed with SIGKILL, ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.records import Status
from harness.store import CellStore
from tests.bench.common import descendants, ray_workers_below
from tests.fakes import wait_until
from tests.test_resume import executable, is_running
from tests.test_run import images

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
OFTEN = ("import sys, harness.interruption as i; i.EVERY_SECONDS, i.SAVING_SHARE = 0.0, float('inf'); "
         "from harness.__main__ import main; sys.exit(main(sys.argv[1:]))")


@pytest.mark.slow  # the default suite stops a training within one process: tests/test_interruption.py
def test_training_that_is_killed_nine_times_ends_with_the_same_bytes(tmp_path):
    def artifact(results: Path) -> bytes:
        (file,) = results.rglob("artifact.safetensors")
        return file.read_bytes()

    def kept() -> set[int]:
        return {file.stat().st_mtime_ns for file in (tmp_path / "killed").rglob("checkpoint*.safetensors")}

    assert main([*TRAINING, f"results={tmp_path / 'whole'}"]) == 0
    for _ in range(9):
        before = kept()
        process = subprocess.Popen([sys.executable, "-c", OFTEN, *TRAINING, f"results={tmp_path / 'killed'}"])
        wait_until(lambda: process.poll() is not None or (kept() - before))  # noqa: B023
        assert process.poll() is None
        process.kill()
        process.wait()
    assert main([*TRAINING, f"results={tmp_path / 'killed'}"]) == 0
    assert artifact(tmp_path / "killed") == artifact(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("seed", range(16))
def test_storm_of_kills_loses_nothing_changes_nothing_and_makes_nothing_twice(seed, tmp_path, undisturbed):
    """Two or three kills of driver, worker, raylet or head, each after some more images; then the command again."""
    draw = random.Random(seed)
    command = [sys.executable, "-m", "harness", *WORDS, *RAY, f"results={tmp_path}"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    for victim in draw.choices(["driver", "worker", "raylet", "gcs_server"], k=draw.choice([2, 2, 3])):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        wanted = len(images(tmp_path)) + draw.randint(0, 6)
        wait_until(lambda: process.poll() is not None or (ray_workers_below(process.pid)  # noqa: B023
                                                          and len(images(tmp_path)) >= wanted))  # noqa: B023
        below = descendants(process.pid)
        found = {"driver": [process.pid], "worker": ray_workers_below(process.pid)}.get(
            victim, [pid for pid in below if executable(pid) == victim])  # fmt: skip
        for pid in found[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=400)
        wait_until(lambda: not any(map(is_running, below)), 60)  # noqa: B023
    assert main([*WORDS, *INLINE, f"results={tmp_path}"]) == 0
    assert images(tmp_path) == undisturbed
    (cell,) = tmp_path.glob("runs/*/*/*/*")
    rows = CellStore(cell).images()
    assert len(rows) == COUNT and all(row.status is Status.OK for row in rows.values())
    assert CellStore(cell).strays() == []


@pytest.mark.slow  # the default suite kills a worker of fakes: tests/test_pool_ray.py
@pytest.mark.ray
@pytest.mark.parametrize("driver", [RAY], indirect=True)
def test_killed_worker_is_replaced_and_two_workers_make_the_bytes_of_one(driver, tmp_path, undisturbed):
    (victim, *_) = ray_workers_below(driver.pid)
    os.kill(victim, signal.SIGKILL)
    assert driver.wait(timeout=400) == 0
    assert images(tmp_path) == undisturbed
