"""A Ray that has died is noticed, said, and not waited for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid

import pytest

from harness.pool import watch as module
from harness.pool.reaper import __file__ as reaper_file
from harness.pool.reaper import marked
from harness.pool.watch import MISSES, Watch
from tests.support.fakes import wait_until

PLACE = ("the head (GCS)", "127.0.0.1", 1)


def test_place_that_answers_again_is_not_lost() -> None:
    looks, enough = list[bool](), threading.Event()

    def flicker(host: str, port: int) -> bool:
        looks.append(len(looks) % MISSES == MISSES - 1)
        if len(looks) > 4 * MISSES:
            enough.set()
        return looks[-1]

    watch = Watch([PLACE], flicker, look_seconds=0.001)
    assert enough.wait(60)
    watch.close()
    assert watch.lost is None


def test_loss_is_said_with_its_place_and_a_driver_that_goes_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []
    monkeypatch.setattr(module, "leave", left.append)
    watch = Watch([PLACE], lambda host, port: False, look_seconds=0.001, grace_seconds=0.001)
    watch._thread.join(60)
    assert watch.lost == "Ray has died: the head (GCS) at 127.0.0.1:1 does not answer any more."
    assert left == []


def test_driver_that_is_stuck_in_ray_is_ended_with_the_command_that_goes_on() -> None:
    script = (
        "import threading\n"
        "from harness.lib.ending import stoppable\n"
        "from harness.pool.watch import Watch\n"
        "with stoppable(['python', '-m', 'harness', 'method=none']):\n"
        "    watch = Watch([('the head (GCS)', '127.0.0.1', 1)], lambda *_: False, 0.001, 0.001)\n"
        "    with watch.armed():\n"
        "        threading.Event().wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "Ray has died: the head (GCS)" in done.stderr
    assert "To resume, run the same command again:\n  python -m harness method=none" in done.stderr


def test_only_a_connection_that_is_taken_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert module.answers("127.0.0.1", port)
    assert not module.answers("127.0.0.1", port)


def test_what_bears_the_mark_ends_with_the_driver_and_nothing_else() -> None:
    """The watcher sees the driver's end by its standard input, whatever the driver died of."""
    waiting = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    mark = f"HARNESS_RAY={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    processes = [subprocess.Popen(waiting, stdin=subprocess.PIPE, env={**os.environ, **own})
                 for own in ({name: value}, {name: "another"}, {})]  # fmt: skip
    wait_until(lambda: len(marked(mark.encode())) == 1)
    reaper = subprocess.Popen([sys.executable, "-I", "-S", reaper_file, mark], stdin=subprocess.PIPE)
    reaper.communicate()
    assert processes[0].wait(60) == -signal.SIGKILL
    assert [process.poll() for process in processes[1:]] == [None, None]
    for process in processes[1:]:
        process.communicate()


def test_sigterm_while_ray_starts_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray sets a handler that ends the process with exit code 15, at the start of what takes it seconds."""
    from harness.pool import cluster

    def init(**settings: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cluster.ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        cluster.join("auto", False)
    assert signal.getsignal(signal.SIGTERM) is before
