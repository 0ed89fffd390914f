"""Which files of a repository to download, and downloading a file from a URL: completely or not at all."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, MissingResourceError
from harness.lib.atomic import TEMPORARY_SUFFIX, storage_error
from harness.lib.wanted import HubFiles, UrlFile

if TYPE_CHECKING:
    from harness.lib.hub import RemoteFile, Repository

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without an answer


def chosen_files(wanted: HubFiles, repository: Repository) -> tuple[RemoteFile, ...]:
    """Return the files of a repository to fetch. Raises MissingResourceError if it has none, or too many."""
    matching = [file for file in repository.files if any(fnmatch(file.name, pattern) for pattern in wanted.patterns)]
    by_name = {file.name: file for file in repository.files}
    first = next((by_name[name] for name in wanted.one_of if name in by_name), None)
    instead = "Set bench.file=<a local copy>." if wanted.kind == "dataset" else "See its page for its files."
    if (wanted.one_of and first is None) or not (matching or first):
        names = " or ".join(wanted.one_of or wanted.patterns)
        raise MissingResourceError(f"no {names} in {wanted.repo}.", instead)
    if wanted.single and len(matching) > 1:
        names = ", ".join(sorted(file.name for file in matching)[:12])
        raise MissingResourceError(f"{wanted.repo} has {len(matching)} files {wanted.patterns[0]}: {names}.",
                                   f"Download the right one. {instead}")
    return (*matching, first) if first else tuple(matching)


def size_of(file: UrlFile) -> int | None:
    """Ask how large a file is; None if the server does not say. Raises MissingResourceError in one line."""
    with _answer(file, "HEAD") as answer:
        length = answer.headers.get("Content-Length")
    return int(length) if length and length.isdecimal() else None


def fetch_url(file: UrlFile) -> Path:
    """Download a file, compare its hash, and put it in its place; what is incomplete or another file leaves nothing.

    Raises MissingResourceError (not to be had, broken off, another hash) and StorageError.
    """
    temporary = file.path.with_name(f".{file.path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            digest = _receive(file, temporary)
            if file.sha256 and not digest.startswith(file.sha256):
                raise MissingResourceError(f"{file.url} is not the expected file (sha256 {digest[:12]}, not "
                                           f"{file.sha256[:12]}): changed upstream, or damaged on the way.",
                                           f"Nothing was saved. Put your own copy at {file.path}.")
            os.replace(temporary, file.path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, file.path) or error from error
    return file.path


def _receive(file: UrlFile, temporary: Path) -> str:
    digest, received = hashlib.sha256(), 0
    with _answer(file, "GET") as answer, temporary.open("wb") as sink:
        for block in iter(lambda: answer.read(CHUNK), b""):
            digest.update(block)
            received += len(block)
            sink.write(block)
        sink.flush()
        os.fsync(sink.fileno())
        length = answer.headers.get("Content-Length")
    if length and length.isdecimal() and received != int(length):
        raise _broken_off(file, f"{received} of {length} bytes")
    return digest.hexdigest()


@contextmanager
def _answer(file: UrlFile, method: str) -> Iterator[Any]:
    """Ask an address; what goes wrong is one line."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    from harness.lib.hub_cache import is_offline

    if is_offline():
        raise MissingResourceError(f"{file.url} is needed, but HF_HUB_OFFLINE forbids downloading it.", "Unset it.")
    if not file.url.startswith(("https://", "http://")):
        raise MissingResourceError(f"{file.url} is not the URL of a file.")
    try:
        with urlopen(Request(file.url, method=method), timeout=TIMEOUT) as answer:
            yield answer
    except HTTPError as error:
        gone = "does not exist any more" if error.code in (404, 410) else f"answered with an error ({error.code})"
        raise MissingResourceError(f"{file.url} {gone}.", f"Put your own copy at {file.path}.") from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise _broken_off(file, str(getattr(error, "reason", None) or error)) from None


def _broken_off(file: UrlFile, reason: str) -> HarnessError:
    short = " ".join(reason.split())[:100]
    return MissingResourceError(f"{file.url} cannot be reached, or the connection broke off ({short}).",
                                "Check the network, then run the same command again.")
