"""`python reaper.py NAME=VALUE`: wait for the end of standard input, then end what has that in its environment.

A driver that is killed cannot end the Ray that it started: some of Ray's processes would stay for good.
Runs by its file's name, so that it imports nothing.
"""

import contextlib
import os
import signal
import sys
import time

TRIES, PAUSE = 40, 0.25  # a process may start another one while it is ended


def marked(mark: bytes) -> list[int]:
    """Return the processes that were started with `mark` in their environment."""
    processes = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:  # it has ended, or is somebody else's
            continue
        if mark in variables and int(name) != os.getpid():
            processes.append(int(name))
    return processes


def reap(mark: bytes) -> None:
    """Kill them, and those that they start meanwhile."""
    for _ in range(TRIES):
        pids = marked(mark)
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    reap(sys.argv[1].encode())
