"""Three hosts in network namespaces of this machine: one is cut off, another joins, and no image is lost or changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pool.reaper import reap
from harness.store import CellStore
from harness.worker import Worker
from tests.fakes import FakeToolbox, fake_cell, fake_items, fake_shards, image_bytes, noted, wait_until

COUNT, PORT = 24, 6390
pytestmark = [pytest.mark.slow, pytest.mark.ray]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """Namespaces `a`, `b` and `c` on one bridge; what runs there bears a mark and is ended with them."""

    def __init__(self) -> None:
        self.token = uuid.uuid4().hex[:6]
        self.mark = f"HARNESS_RAY={self.token}"
        ip("link", "add", f"br{self.token}", "type", "bridge")
        ip("link", "set", f"br{self.token}", "up")
        for number, name in enumerate("abc", start=1):
            space, outer, inner = self.space(name), f"o{name}{self.token}", f"i{name}{self.token}"
            ip("netns", "add", space)
            ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            ip("link", "set", outer, "master", f"br{self.token}", "up")
            ip("link", "set", inner, "netns", space)
            for words in (("addr", "add", f"10.77.0.{number}/24", "dev", inner), ("link", "set", inner, "up"),
                          ("link", "set", "lo", "up")):  # fmt: skip
                ip("netns", "exec", space, "ip", *words)

    def space(self, name: str) -> str:
        return f"{name}{self.token}"

    def run(self, name: str, *command: str) -> subprocess.Popen[str]:
        variable, _, value = self.mark.partition("=")
        environment = {key: text for key, text in os.environ.items() if not key.startswith("RAY_")}
        environment |= {variable: value, "SPT_NOENV": "1", "RAY_AUTH_MODE": "disabled"}
        return subprocess.Popen(["ip", "netns", "exec", self.space(name), *command], env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip

    def ray(self, name: str, number: int, temp: Path) -> subprocess.Popen[str]:
        where = [f"--port={PORT}", "--head"] if name == "a" else [f"--address=10.77.0.1:{PORT}"]
        ray = str(Path(sys.executable).with_name("ray"))
        return self.run(name, ray, "start", *where, f"--node-ip-address=10.77.0.{number}", "--num-cpus=1", "--block",
                        "--object-store-memory=80000000", "--include-dashboard=false",
                        f"--temp-dir={temp}")  # fmt: skip

    def cut_off(self, name: str) -> None:
        ip("link", "set", f"o{name}{self.token}", "down")

    def answers(self, number: int) -> bool:
        code = f"import socket; socket.create_connection(('10.77.0.{number}', {PORT}), 2)"
        return self.run("a", sys.executable, "-c", code).wait() == 0

    def close(self) -> None:
        reap(self.mark.encode())
        for name in "abc":
            subprocess.run(["ip", "netns", "del", self.space(name)], capture_output=True)
        subprocess.run(["ip", "link", "del", f"br{self.token}"], capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if not shutil.which("ip"):
        pytest.skip("there is no ip command here")
    if os.geteuid():
        pytest.skip("network namespaces need root")
    try:
        made = Hosts()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    yield made
    made.close()


def test_host_that_is_cut_off_loses_nothing_and_one_that_joins_helps(hosts: Hosts, tmp_path: Path) -> None:
    cell, notes, temp = tmp_path / "results" / "cell", tmp_path / "notes", Path("/tmp") / f"ray-{hosts.token}"
    Worker("w", toolbox=FakeToolbox(tmp_path / "expected-notes")).run(
        fake_shards(fake_cell(tmp_path / "expected"), fake_items(COUNT), COUNT)[0]
    )
    hosts.ray("a", 1, temp)
    wait_until(lambda: hosts.answers(1), 100)
    hosts.ray("b", 2, temp)
    command = [sys.executable, "-m", "tests.resume_driver", str(tmp_path / "results"), "ray", str(notes), str(COUNT)]
    driver = hosts.run("a", *command, json.dumps({"5": "gate", "13": "gate"}), f"10.77.0.1:{PORT}")
    wait_until(lambda: (notes / "reached").exists() or driver.poll() is not None, 100)
    assert driver.poll() is None, driver.communicate()[0]
    wait_until(lambda: noted(notes / "loaded", "fake") > 1 or driver.poll() is not None)
    hosts.cut_off("b")
    hosts.ray("c", 3, temp)
    (notes / "open").touch()
    said, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert image_bytes(cell) == image_bytes(tmp_path / "expected")
    assert len(CellStore(cell).done()) == COUNT
    shutil.rmtree(temp, ignore_errors=True)
