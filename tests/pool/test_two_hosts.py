"""Hosts in network namespaces of this machine: one is cut off, another joins, a third one does not fit."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import harness
from harness.cells.store import CellStore
from harness.pool.reaper import reap
from harness.pool.worker import Worker
from tests.support.fakes import FakeToolbox, fake_cell, fake_items, fake_shards, image_bytes, noted, wait_until

COUNT, PORT, NAMES = 24, 6390, "abc"
GATES = {"5": "gate", "13": "gate"}
pytestmark = [pytest.mark.slow, pytest.mark.ray]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """Hosts `a`, `b` and `c`, each with a network and a host name of its own, on one bridge and one disk.

    What runs there bears a mark and is ended with them.
    """

    def __init__(self, logs: Path) -> None:
        self.token = uuid.uuid4().hex[:6]
        self.mark = f"HARNESS_RAY={self.token}"
        self.temp = Path("/tmp") / f"ray-{self.token}"
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def make(self) -> None:
        ip("link", "add", f"br{self.token}", "type", "bridge")
        ip("link", "set", f"br{self.token}", "up")
        for name in NAMES:
            space, outer, inner = f"{name}{self.token}", f"o{name}{self.token}", f"i{name}{self.token}"
            ip("netns", "add", space)
            ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            ip("link", "set", outer, "master", f"br{self.token}", "up")
            ip("link", "set", inner, "netns", space)
            for words in (("addr", "add", f"{self.address(name)}/24", "dev", inner), ("link", "set", inner, "up"),
                          ("link", "set", "lo", "up")):  # fmt: skip
                ip("netns", "exec", space, "ip", *words)

    def address(self, name: str) -> str:
        return f"10.77.0.{NAMES.index(name) + 1}"

    def run(self, name: str, what: str, *command: str, first: str = "true") -> subprocess.Popen[bytes]:
        """Run a command on a host, after `first`, whose mounts are seen there only."""
        variable, _, value = self.mark.partition("=")
        environment = {key: text for key, text in os.environ.items() if not key.startswith("RAY_")}
        environment |= {variable: value, "SPT_NOENV": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        shell = ["unshare", "--uts", "--mount", "sh", "-c", f'hostname host-{name} && {first} && exec "$@"', "sh"]
        with open(self.logs / f"{what}.out", "wb") as out, open(self.logs / f"{what}.err", "wb") as err:
            self.running[what] = subprocess.Popen(
                ["ip", "netns", "exec", f"{name}{self.token}", *shell, *command], env=environment, stdout=out,
                stderr=err, start_new_session=True,
            )  # fmt: skip
        return self.running[what]

    def join(self, name: str, first: str = "true") -> None:
        """Start Ray on a host; return when it is there."""
        head = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        where = head if name == "a" else [f"--address={self.address('a')}:{PORT}"]
        ray = str(Path(sys.executable).with_name("ray"))
        self.run(name, f"ray-{name}", ray, "start", *where, f"--node-ip-address={self.address(name)}", "--num-cpus=1",
                 "--block", "--object-store-memory=80000000", f"--temp-dir={self.temp}", first=first)  # fmt: skip
        self.until(lambda: "Ray runtime started" in self.said(f"ray-{name}"))

    def drive(self, results: Path, notes: Path, trouble: dict[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.support.resume_driver",
                   str(results), "ray", str(notes), str(COUNT)]
        return self.run("a", "driver", *command, json.dumps(trouble), f"{self.address('a')}:{PORT}")

    def said(self, what: str) -> str:
        return "".join((self.logs / f"{what}.{kind}").read_text(errors="replace") for kind in ("out", "err"))

    def until(self, happened: Callable[[], bool]) -> None:
        """Return when it happened; fail where something that runs on a host ends before."""

        def ended() -> list[str]:
            return [what for what, process in self.running.items() if process.poll() is not None]

        wait_until(lambda: happened() or bool(ended()))
        assert happened(), {what: self.said(what) for what in ended()}

    def cut_off(self, name: str) -> None:
        del self.running[f"ray-{name}"]
        ip("link", "set", f"o{name}{self.token}", "down")

    def close(self) -> None:
        reap(self.mark.encode())
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", f"{name}{self.token}"], capture_output=True)
        subprocess.run(["ip", "link", "del", f"br{self.token}"], capture_output=True)
        shutil.rmtree(self.temp, ignore_errors=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("there is no ip or no unshare command here")
    if os.geteuid():
        pytest.skip("network namespaces need root")
    (tmp_path / "logs").mkdir()
    made = Hosts(tmp_path / "logs")
    try:
        made.make()
        yield made
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    finally:
        made.close()


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "expected-notes"))
    worker.run(fake_shards(fake_cell(tmp_path / "expected"), fake_items(COUNT), COUNT)[0])
    return image_bytes(tmp_path / "expected")


def finish(driver: subprocess.Popen[bytes], hosts: Hosts) -> str:
    """Return what an ended driver said; fail where it did not end well."""
    assert driver.wait(timeout=400) == 0, hosts.said("driver")
    return hosts.said("driver")


def test_host_that_is_cut_off_loses_nothing_and_one_that_joins_helps(
    hosts: Hosts, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cell, notes = tmp_path / "results" / "cell", tmp_path / "notes"
    hosts.join("a")
    hosts.join("b")
    driver = hosts.drive(tmp_path / "results", notes, GATES)
    hosts.until(lambda: noted(notes / "loaded", "fake") == 2)
    hosts.cut_off("b")
    hosts.join("c")
    hosts.until(lambda: noted(notes / "loaded", "fake") == 3)
    (notes / "open").touch()
    finish(driver, hosts)
    assert image_bytes(cell) == expected
    rows = CellStore(cell).images()
    assert len(rows) == len(CellStore(cell).done()) == COUNT
    assert {row.host for row in rows.values()} >= {"host-a", "host-c"}


def other_code(folder: Path) -> str:
    """Return the command that changes the harness of one host."""
    file = Path(harness.__file__)
    changed = folder / "changed.py"
    changed.write_text(f"{file.read_text()}\n# Changed.\n")
    return shlex.join(["mount", "--bind", str(changed), str(file)])


def test_host_with_other_code_is_refused_in_one_line(hosts: Hosts, tmp_path: Path) -> None:
    hosts.join("a")
    hosts.join("b", first=other_code(tmp_path))
    driver = hosts.drive(tmp_path / "results", tmp_path / "notes", GATES)  # the other host does not end before
    assert driver.wait(timeout=400) == 2, hosts.said("driver")
    errors = (hosts.logs / "driver.err").read_text()
    assert "the worker on host-b has code " in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_host_without_the_shared_folder_is_refused_in_one_line(hosts: Hosts, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    hosts.join("a")
    hosts.join("b", first=shlex.join(["mount", "-t", "tmpfs", "tmpfs", str(results)]))
    driver = hosts.drive(results, tmp_path / "notes", GATES)
    assert driver.wait(timeout=400) == 2, hosts.said("driver")
    errors = (hosts.logs / "driver.err").read_text()
    assert f"files that a worker on host-b writes to {results} are not visible here." in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not (results / ".lease.json").exists()


def test_host_with_other_code_that_joins_late_is_left_out(
    hosts: Hosts, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cell, notes = tmp_path / "results" / "cell", tmp_path / "notes"
    hosts.join("a")
    driver = hosts.drive(tmp_path / "results", notes, GATES)
    hosts.until(lambda: noted(notes / "loaded", "fake") == 1)
    hosts.join("b", first=other_code(tmp_path))
    hosts.until(lambda: "node host-b joined and is left out" in hosts.said("driver"))
    hosts.join("c")
    hosts.until(lambda: noted(notes / "loaded", "fake") == 2)
    (notes / "open").touch()
    said = finish(driver, hosts)
    assert "Traceback" not in said
    assert image_bytes(cell) == expected
    assert {row.host for row in CellStore(cell).images().values()} == {"host-a", "host-c"}
