"""One driver at a time on a results folder."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import StorageError
from harness.lib.atomic import storage_error, write_atomic
from harness.lib.reading import UnreadableFileError, read_json

MAX_PID = 2**31
log = logging.getLogger(__name__)

_held: dict[str, Path] = {}  # by token: the leases of this process


class InUseError(StorageError):
    """Another run holds the folder."""


class Lease:
    """A file in the results folder that says who runs there; a second driver is refused.

    A lease counts as abandoned when it was not refreshed for `stale_after` seconds, or when its process is
    dead on this host, as far as this process can see those of its owner: containers of one host name may not.
    Ages are taken between files of the folder, so clocks of hosts do not matter.
    """

    def __init__(self, root: Path, refresh_every: float = 30.0, stale_after: float = 120.0) -> None:
        self.root = root
        self.path = root / ".lease.json"
        self.refresh_every = refresh_every
        self.stale_after = stale_after
        self.token = uuid.uuid4().hex
        self._lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the folder. Raises InUseError when another driver holds it, StorageError when it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self.root) or error from error
        while not self._create():
            self._clear_abandoned()
        _held[self.token] = self.path
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the folder back; leave the lease of anybody else alone."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.token in _held:
            _give_back(self.token)

    def check(self) -> None:
        """Raise StorageError when another driver took the folder over (this one was asleep for too long)."""
        if self._lost:
            raise StorageError(
                f"another run took over {self.root} while this one was suspended.",
                "Wait for it to end, then run the same command again.",
            )

    def _create(self) -> bool:
        owner = {"token": self.token, "since": time.time(), **this_process()}
        try:
            file = self.path.open("x")
        except FileExistsError:
            return False
        except OSError as error:
            raise storage_error(error, self.path) or error from error
        try:
            with file:
                json.dump(owner, file)
        except BaseException as error:  # a lease that names nobody would keep everybody out
            self.path.unlink(missing_ok=True)
            raise (storage_error(error, self.path) if isinstance(error, OSError) else None) or error from None
        return True

    def _clear_abandoned(self) -> None:
        owner = self._owner()
        if not self._abandoned(owner):
            raise InUseError(
                f"{self.root} is in use by process {owner.get('pid', '?')} on {owner.get('host', '?')}.",
                "Wait for it to end, or choose another folder with results=FOLDER.",
            )
        # A rename has one winner. What was taken away is looked at again, for it may by then be a new, live lease.
        aside = self.path.with_name(f".lease.{uuid.uuid4().hex[:12]}.tmp")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if _read(aside).get("token") != owner.get("token"):
            os.rename(aside, self.path)
            return
        aside.unlink(missing_ok=True)
        log.warning("took over the lease that process %s on %s left", owner.get("pid"), owner.get("host"))

    def _owner(self) -> dict[str, Any]:
        return _read(self.path)

    def _abandoned(self, owner: dict[str, Any]) -> bool:
        if owner.get("pid") == os.getpid() and owner.get("host") == socket.gethostname() and _is_here(owner):
            return owner.get("token") not in _held  # a restarted container gives the same number to a new process
        if is_dead(owner):
            return True
        try:
            return self._now() - self.path.stat().st_mtime > self.stale_after
        except FileNotFoundError:
            return True

    def _now(self) -> float:
        probe = self.path.with_name(f".lease-clock-{self.token}")
        while True:
            write_atomic(probe, b"")
            try:
                return probe.stat().st_mtime
            except FileNotFoundError:  # the folder's holder has just cleared it
                continue
            finally:
                probe.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._stop.wait(self.refresh_every):
            try:
                if self._owner().get("token") != self.token:
                    self._lost = True
                    return
                os.utime(self.path)
            except OSError as error:  # storage that fails for a while is no reason to let go of the folder
                log.warning("the lease %s could not be refreshed: %s", self.path, error)


def give_back_all() -> None:
    """Remove every lease that this process holds: it is about to end without more ado."""
    for token in list(_held):
        with suppress(OSError):
            _give_back(token)


def _give_back(token: str) -> None:
    path = _held.pop(token)
    if _read(path).get("token") == token:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        owner = read_json(path) or {}
    except UnreadableFileError:
        return {}
    pid = owner.get("pid")
    return owner if pid is None or (isinstance(pid, int) and 0 < pid < MAX_PID) else owner | {"pid": None}


def this_process() -> dict[str, Any]:
    """Return what names this process for good, for `is_dead` of another one."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "space": _process_space(), "started": _started(pid)}


def is_dead(owner: dict[str, Any]) -> bool:
    """Return whether a process is known to have ended: one of this host whose processes are seen from here."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or owner.get("host") != socket.gethostname() or not _is_here(owner):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return owner.get("started") is not None and owner["started"] != _started(pid)


def _is_here(owner: dict[str, Any]) -> bool:
    return bool(owner.get("space", _process_space()) == _process_space())


def _process_space() -> str | None:
    """Name the set of processes that this one can see; None if the system has no name for it."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Return when a process was started, in ticks since boot: with its number, that names it for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
