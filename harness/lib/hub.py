"""The hub: the files of a repository, verified downloads, and every error in one line.

Only a driver or `python -m harness prefetch` comes here; workers read the local cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, MissingResourceError, StorageError
from harness.lib.atomic import free_space, storage_error, write_atomic
from harness.lib.formatting import size
from harness.lib.hashing import file_hash
from harness.lib.hub_cache import has_token, hub_cache, is_offline

NO_MIRRORS: Mapping[str, str] = {}
AGAIN = "Run the same command again: complete files are kept."


class GoneError(MissingResourceError):
    """A repository that does not exist, or not any more, or not for this token."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its bytes, and the sha256 that the hub declares for large ones."""

    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A model's or data set's repository at one commit. `revision` is what was asked for; None: main."""

    id: str
    revision: str | None
    commit: str
    kind: str  # model or dataset
    files: tuple[RemoteFile, ...]

    @property
    def folder(self) -> Path:
        return hub_cache() / f"{self.kind}s--{self.id.replace('/', '--')}"

    def here(self, file: RemoteFile) -> Path:
        """Return where the cache keeps a file of this commit."""
        return self.folder / "snapshots" / self.commit / file.name

    def absent(self, files: Sequence[RemoteFile]) -> list[RemoteFile]:
        return [file for file in files if not self.here(file).is_file()]


def page_of(repo: str, kind: str = "model") -> str:
    """Return the page that a person opens to accept a licence."""
    return f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"


def look_up(repo: str, revision: str | None, kind: str = "model", mirrors: Mapping[str, str] = NO_MIRRORS
            ) -> Repository:
    """Ask the hub which commit a revision is and what it holds. Raises MissingResourceError in one line.

    `mirrors` names copies of repositories that are known to be gone.
    """
    from huggingface_hub import HfApi

    with hub_faults(repo, kind, mirrors.get(repo)):
        api = HfApi(endpoint=_endpoint())
        ask = api.dataset_info if kind == "dataset" else api.model_info
        info = ask(repo, revision=revision, files_metadata=True)
    files = tuple(RemoteFile(file.rfilename, int(file.size or 0), file.lfs.sha256 if file.lfs else None)
                  for file in info.siblings or ())
    return Repository(repo, revision, str(info.sha), kind, files)


def fetch(repository: Repository, file: RemoteFile) -> Path:
    """Return the path of a file in the cache, fetched if it is missing and compared with the hub's sha256."""
    from huggingface_hub import hf_hub_download

    with hub_faults(repository.id, repository.kind):
        path = Path(hf_hub_download(repository.id, file.name, revision=repository.commit, repo_type=repository.kind,
                                     cache_dir=hub_cache(), endpoint=_endpoint()))
    if path.stat().st_size != file.bytes or (file.sha256 and file_hash(path) != file.sha256):
        blob = path.resolve()
        path.unlink()
        blob.unlink(missing_ok=True)
        raise MissingResourceError(f"{file.name} of {page_of(repository.id, repository.kind)} does not match the "
                                   f"hub's hash (sha256 {str(file.sha256)[:12]}): changed upstream, or damaged on the "
                                   f"way. It was deleted.", AGAIN)
    return path


def remember_revision(repository: Repository) -> None:
    """Record which commit a branch was, so that runs without network find it; a commit needs no record."""
    name = repository.revision or "main"
    if name != repository.commit:
        write_atomic(repository.folder / "refs" / name, repository.commit.encode())


def check_space(needed: int, folder: Path) -> None:
    """Raise StorageError if the disk of a folder cannot hold `needed` more bytes."""
    free = free_space(folder)
    if needed > free:
        raise StorageError(f"{size(needed)} to download into {folder}, but only {size(free)} free.",
                           "Free some space, or set HF_HOME to a folder on another disk.")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def hub_faults(repo: str, kind: str = "model", mirror: str | None = None) -> Iterator[None]:
    """Turn what the hub's library raises into one line that says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = page_of(repo, kind)
    if is_offline():
        raise MissingResourceError(f"{page} is needed, but HF_HUB_OFFLINE forbids downloading it.", "Unset it.")
    try:
        yield
    except HFValidationError:
        raise MissingResourceError(f"'{repo}' is not a hub id.", "Use owner/name, or the path to a folder.") from None
    except GatedRepoError:
        raise _gated(page) from None
    except RevisionNotFoundError:
        raise MissingResourceError(f"{page} has no such revision.", "See its commit history.") from None
    except RepositoryNotFoundError:
        raise _gone(page, mirror) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise _unreachable(page, error) from None
    except EntryNotFoundError as error:
        raise MissingResourceError(f"a file is not in {page}: {_short(error)}") from None
    except HfHubHTTPError as error:
        raise _refused(page, error) from None
    except HarnessError:
        raise
    except OSError as error:
        raise storage_error(error, hub_cache()) or _unreachable(page, error) from None
    except Exception as error:
        if "httpx" not in type(error).__module__:  # the library's own transport errors are no OSError
            raise
        raise _unreachable(page, error) from None


def _gated(page: str) -> MissingResourceError:
    if has_token():
        return MissingResourceError(f"{page} is gated, and its terms have not been accepted for your token.",
                                    f"Open {page}, accept them, then run the same command again.")
    return MissingResourceError(f"{page} is gated, and no token is set.",
                                f"Open {page}, accept its terms, then set HF_TOKEN.")


def _gone(page: str, mirror: str | None) -> GoneError:
    hint = f"There is a mirror, {mirror}: set model.source={mirror} model.revision=null." if mirror else \
        "Check the id; a private repository needs HF_TOKEN."
    return GoneError(f"{page} does not exist, was deleted, or this token has no access.", hint)


def _refused(page: str, error: Exception) -> MissingResourceError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return MissingResourceError(f"{page} does not accept your token.", "Set HF_TOKEN to a valid one.")
    if status == 403:
        return _gated(page)
    return MissingResourceError(f"{page} answered with an error ({status}).", AGAIN)


def _unreachable(page: str, error: Exception) -> MissingResourceError:
    return MissingResourceError(f"{page} cannot be reached, or the connection broke off ({_short(error)}).",
                                f"Check the network. {AGAIN}")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:100] or type(error).__name__
