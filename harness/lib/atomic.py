"""Files written completely or not at all, and the storage faults that a user can fix."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path

from harness.errors import StorageError

TEMPORARY_SUFFIX = ".tmp"

_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "Free some space, then run the same command again."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, then run the same command again."),
    errno.EROFS: ("the file system is read-only", "Choose another folder with results=FOLDER."),
    errno.EACCES: ("permission denied", "Choose another folder with results=FOLDER."),
    errno.EPERM: ("operation not permitted", "Choose another folder with results=FOLDER."),
    errno.ENOTDIR: ("part of the path is a file", "Choose another folder with results=FOLDER."),
    errno.EISDIR: ("it is a folder", "Move it away, then run the same command again."),
    errno.ENAMETOOLONG: ("the name is too long", "Choose another folder with results=FOLDER."),
    errno.EEXIST: ("part of the path is a file", "Choose another folder with results=FOLDER."),
}

# Of network file systems above all: the same write may succeed a moment later, or from another node.
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ENOLCK,
                      errno.ECONNRESET, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENETUNREACH, errno.EBUSY,
                      getattr(errno, "EREMOTEIO", errno.EIO)})  # fmt: skip


class PassingFault(Exception):
    """The storage failed in a way that may not last. One line."""


def is_passing(error: BaseException | None) -> bool:
    """Return whether an error, or what it came of, is the storage's and may be gone at the next try."""
    while error is not None:
        if isinstance(error, PassingFault) or (isinstance(error, OSError) and error.errno in _PASSING):
            return True
        error = error.__cause__
    return False


def storage_error(error: OSError, path: Path | str) -> StorageError | None:
    """Return what a user can do about `error` at `path`, or None if it is not a storage fault."""
    if error.errno not in _REMEDIES:
        return None
    reason, remedy = _REMEDIES[error.errno]
    return StorageError(f"cannot write {path}: {reason}.", remedy)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new, whatever happens.

    Raises StorageError if the disk is full or not writable, OSError otherwise.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        known = storage_error(error, path)
        if known is None:
            raise
        raise known from error


def nearest_existing(path: Path) -> Path:
    """Return `path`, or the closest of its parents that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_space(path: Path) -> int:
    """Return the free bytes of the file system that holds `path`, which need not exist yet."""
    return shutil.disk_usage(nearest_existing(path)).free


def check_writable(folder: Path) -> None:
    """Make `folder` and write a file into it. Raises StorageError with what to do."""
    probe = folder / f".probe-{uuid.uuid4().hex[:12]}"
    write_atomic(probe, b"x" * 4096)
    probe.unlink(missing_ok=True)


def stray_files(folder: Path) -> list[Path]:
    """Return the temporary files below `folder` that a killed writer left behind."""
    return sorted(folder.rglob(f".*{TEMPORARY_SUFFIX}"))
