"""Who holds a folder: a second driver is refused, a dead one is not waited for, failing storage loses nothing."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import harness.lib.lease as lease_module
from harness.errors import StorageError
from harness.lib.lease import InUseError, Lease, give_back_all
from harness.training.artifacts import ArtifactCache
from tests.support.fakes import wait_until
from tests.training.test_interruption import METHODS


def owned(root: Path, **changes: object) -> None:
    """Write the lease of somebody else: of this host, of a process that is not there."""
    owner = {"token": "other", "host": socket.gethostname(), "pid": 2**22 + 1, "since": 0}
    (root / ".lease.json").write_text(json.dumps({**owner, **changes}))


def test_process_of_another_container_of_this_host_name_is_not_taken_for_dead(tmp_path: Path) -> None:
    owned(tmp_path, space="other boot pid:[1]")
    with pytest.raises(InUseError, match="in use by process"):
        Lease(tmp_path).acquire()
    owned(tmp_path, space=lease_module._process_space())
    with Lease(tmp_path):
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say when a process was started")
def test_number_of_a_dead_process_that_another_one_has_now_is_not_taken_for_it(tmp_path: Path) -> None:
    owned(tmp_path, pid=os.getppid(), space=lease_module._process_space(), started="1")
    with Lease(tmp_path):
        pass
    owned(tmp_path, pid=os.getppid(), space=lease_module._process_space(),
          started=lease_module._started(os.getppid()))  # fmt: skip
    with pytest.raises(InUseError):
        Lease(tmp_path).acquire()


def test_lease_is_kept_through_faults_of_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, faults = lease_module._read, iter([errno.EIO, errno.ESTALE, errno.EIO])

    def failing(path: Path) -> dict[str, object]:
        for code in faults:
            raise OSError(code, os.strerror(code))
        return read(path)

    with Lease(tmp_path, refresh_every=0.01) as lease:
        monkeypatch.setattr(lease_module, "_read", failing)
        os.utime(lease.path, (0, 0))
        wait_until(lambda: lease.path.stat().st_mtime > 0, 60)
        lease.check()
    assert not lease.path.exists()


def test_lease_that_a_full_disk_leaves_empty_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(StorageError, match="the disk is full"):
        Lease(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == []


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_training_on_a_full_disk_ends_with_what_to_do(tmpfs: Callable[[str], Path]) -> None:
    """It neither waits for a lease that names nobody, nor leaves one."""
    cache = ArtifactCache(tmpfs("size=64k"))
    method = METHODS["esd"][0]
    cache.folder(method, "key").mkdir(parents=True)
    fill(cache.root)
    with pytest.raises(StorageError, match="the disk is full"):
        cache.get_or_make(method, "key", lambda: pytest.fail("there is no room to train"))
    assert list(cache.folder(method, "key").iterdir()) == []


def test_leases_are_given_back_at_once_by_a_process_that_ends_in_a_hurry(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    with Lease(first), Lease(second):
        owned(second)  # taken over meanwhile
        give_back_all()
        assert not (first / ".lease.json").exists()
        assert (second / ".lease.json").exists()
