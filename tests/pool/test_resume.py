"""Killed at any moment, the same command again ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cells.store import CellStore
from harness.pool.worker import Worker
from tests.speed.common import descendants
from tests.support.fakes import (
    FakeToolbox,
    fake_cell,
    fake_items,
    fake_shards,
    image_bytes,
    noted,
    wait_for,
    wait_until,
)

COUNT = 24
KINDS = ["inline", pytest.param("ray", marks=pytest.mark.ray)]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a driver on `tmp_path / results`; whatever still runs is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(kind: str = "inline", results: Path = tmp_path / "results", notes: str = "notes", **trouble: str):
        driver = [sys.executable, "-m", "tests.support.resume_driver"]
        command = [*driver, str(results), kind, str(tmp_path / notes), str(COUNT)]
        words = json.dumps({name.removeprefix("p"): word for name, word in trouble.items()})
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        process = subprocess.Popen(
            [*command, words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    cell = fake_cell(tmp_path / "expected")
    Worker("w", toolbox=FakeToolbox(tmp_path / "expected-notes")).run(fake_shards(cell, fake_items(COUNT), COUNT)[0])
    return image_bytes(tmp_path / "expected")


def finish(process: subprocess.Popen[str], timeout: float = 400) -> tuple[int, str]:
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def made(folder: Path) -> set[str]:
    return {path.name.split("~")[0] for path in folder.glob("*")}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_driver_resumes_to_the_same_bytes_and_makes_only_what_is_missing(
    start: Start, kind: str, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cell, notes = tmp_path / "results" / "cell", tmp_path / "notes"
    driver = start(kind, p13="gate")
    wait_for(notes / "reached")
    if kind == "ray":  # the other worker goes on to the end of its shards
        wait_for_rows(cell, 2)
    below = descendants(driver.pid)
    driver.kill()
    driver.communicate()
    wait_until(lambda: not any(map(is_running, below)), 60, "processes of the driver are still there")
    done = CellStore(cell).done()
    assert 0 < len(done) < COUNT
    assert finish(start(kind, notes="second"))[0] == 0
    assert image_bytes(cell) == expected
    assert len(CellStore(cell).done()) == COUNT
    assert made(tmp_path / "second" / "made") == {
        item.key.file_name for item in fake_items(COUNT) if item.key not in done
    }


@pytest.mark.ray
@pytest.mark.parametrize("victim", ["gcs_server", pytest.param("raylet", marks=pytest.mark.slow)])
def test_death_of_ray_itself_is_said_and_nothing_stays(
    start: Start, victim: str, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cell, notes = tmp_path / "results" / "cell", tmp_path / "notes"
    driver = start("ray", p13="gate")
    wait_for(notes / "reached")
    below = descendants(driver.pid)
    os.kill(next(pid for pid in below if executable(pid) == victim), signal.SIGKILL)
    code, errors = finish(driver, timeout=60)
    assert code == 2
    assert "Ray has died: " in errors and "does not answer any more." in errors
    wait_until(lambda: not any(map(is_running, below)), 60)
    assert not (tmp_path / "results" / ".lease.json").exists()
    assert finish(start("inline", notes="second"))[0] == 0
    assert image_bytes(cell) == expected


def executable(pid: int) -> str:
    """Return the name of the program that a process runs."""
    try:
        return Path(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()).name
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_rows(cell: Path, count: int) -> None:
    """Return when `count` row files are there, whatever their names."""
    wait_until(lambda: len(list((cell / "rows").glob("[!.]*.parquet"))) >= count, 400)


def test_stray_files_of_a_killed_run_are_neither_counted_nor_in_the_way(
    start: Start, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cell = tmp_path / "results" / "cell"
    folder = cell / fake_items(1)[0].key.relative_path
    folder.parent.mkdir(parents=True)
    stray = folder.with_name(f".{folder.name}.0123456789ab.tmp")
    stray.write_bytes(b"half an image")
    assert finish(start())[0] == 0
    assert len(CellStore(cell).done()) == COUNT
    assert CellStore(cell).strays() == [stray]
    assert image_bytes(cell) == expected


def test_damaged_files_are_made_again(start: Start, tmp_path: Path, expected: dict[str, bytes]) -> None:
    cell = tmp_path / "results" / "cell"
    assert finish(start())[0] == 0
    truncated, gone = (cell / item.key.relative_path for item in fake_items(2))
    truncated.write_bytes(truncated.read_bytes()[:20])
    gone.unlink()
    rows = sorted((cell / "rows").glob("*.parquet"))[-1]
    lost = rows.read_bytes()
    rows.write_bytes(lost[: len(lost) // 3])
    assert finish(start(notes="second"))[0] == 0
    assert image_bytes(cell) == expected
    assert len(made(tmp_path / "second" / "made")) == 2 + 8
    assert list(CellStore(cell).problems) == []
    store = CellStore(cell)
    assert len(store.done()) == COUNT
    assert list(store.problems) == [f"rows/{rows.name}"]


def test_second_driver_on_the_folder_is_refused_in_one_line(start: Start, tmp_path: Path) -> None:
    first = start(p0="gate")
    wait_for(tmp_path / "notes" / "reached")
    code, errors = finish(start(notes="second"))
    assert (code, errors.count("\n")) == (2, 1)
    assert f"is in use by process {first.pid} on" in errors
    (tmp_path / "notes" / "open").touch()
    assert finish(first)[0] == 0


@pytest.mark.parametrize("kind", ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_ctrl_c_in_the_terminal_exits_130_and_keeps_what_ran(
    start: Start, kind: str, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """The whole process group has the signal, as from a keyboard; the workers must not die of it."""
    cell, notes = tmp_path / "results" / "cell", tmp_path / "notes"
    driver = start(kind, p1="gate")
    wait_for(notes / "reached")
    os.killpg(driver.pid, signal.SIGINT)
    (notes / "open").touch()
    code, errors = finish(driver)
    assert (code, errors.count("Traceback")) == (130, 0)
    assert "stopped by SIGINT" in errors
    assert len(CellStore(cell).done()) >= 4
    assert finish(start(kind, notes="second"))[0] == 0
    assert image_bytes(cell) == expected


def test_full_disk_ends_the_run_with_what_to_do(start: Start, tmpfs) -> None:
    code, errors = finish(start(results=tmpfs("size=64k")))
    assert (code, errors.count("\n")) == (2, 1)
    assert "the disk is full. Free some space" in errors


def test_read_only_folder_ends_the_run_with_what_to_do(start: Start, tmpfs) -> None:
    code, errors = finish(start(results=tmpfs("ro,size=1m")))
    assert (code, errors.count("\n")) == (2, 1)
    assert "the file system is read-only. Choose another folder with results=FOLDER." in errors


def test_results_of_a_killed_run_hold_every_image_once(start: Start, tmp_path: Path) -> None:
    driver = start(p20="gate")
    wait_for(tmp_path / "notes" / "reached")
    driver.kill()
    driver.communicate()
    finish(start(notes="second"))
    rows = CellStore(tmp_path / "results" / "cell").images()
    assert len(rows) == COUNT
    assert noted(tmp_path / "notes" / "made", "p000_00.png") + noted(tmp_path / "second" / "made", "p000_00.png") == 1


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_ray_train_the_same_artifact_as_this_process_whatever_their_threads(tmp_path: Path) -> None:
    from tests.run.test_run import QUICK
    from tests.training.test_artifact_use import SAFEDIR

    found = []
    for name, pool in (("inline", ["pool=inline", "pool.threads=1"]),
                       ("ray", ["pool=ray", "pool.workers=2", "pool.threads=2"])):
        command = [sys.executable, "-m", "harness", *QUICK, *SAFEDIR, *pool, f"results={tmp_path / name}"]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        (file,) = (tmp_path / name).glob("artifacts/*/*/artifact.safetensors")
        found.append(file.read_bytes())
    assert found[0] == found[1]
