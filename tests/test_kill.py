"""The real command line on the embedded model, killed with SIGKILL, ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from harness.__main__ import main
from tests.bench.common import ray_workers_below
from tests.fakes import wait_until
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


@pytest.mark.slow  # the default suite kills a worker of fakes: tests/test_pool_contract.py
@pytest.mark.ray
@pytest.mark.parametrize("driver", [RAY], indirect=True)
def test_killed_worker_is_replaced_and_two_workers_make_the_bytes_of_one(driver, tmp_path, undisturbed):
    (victim, *_) = ray_workers_below(driver.pid)
    os.kill(victim, signal.SIGKILL)
    assert driver.wait(timeout=400) == 0
    assert images(tmp_path) == undisturbed
