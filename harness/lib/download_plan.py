"""What has to be downloaded, for what and how large: listed first, then downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.lib.downloads import fetch_url
from harness.lib.formatting import size
from harness.lib.hub import RemoteFile, Repository, fetch, remember_revision
from harness.lib.hub_cache import hub_cache
from harness.lib.wanted import UrlFile


@dataclass(frozen=True)
class Need:
    """What is to be fetched of one repository, and for what."""

    label: str
    repository: Repository
    files: tuple[RemoteFile, ...]

    @property
    def missing_bytes(self) -> int:
        return sum(file.bytes for file in self.repository.absent(self.files))

    @property
    def place(self) -> Path:
        return hub_cache()

    def fetch(self) -> None:
        for file in self.files:
            fetch(self.repository, file)
        remember_revision(self.repository)

    def __str__(self) -> str:
        total, repository = sum(file.bytes for file in self.files), self.repository
        return (f"{self.label}: {repository.id} at {repository.commit[:12]}, {size(total)} in {len(self.files)} files, "
                f"{size(self.missing_bytes)} to download")


@dataclass(frozen=True)
class UrlNeed:
    """A file to be fetched from an address, and for what. `bytes` None: the server does not say."""

    label: str
    file: UrlFile
    bytes: int | None

    @property
    def missing_bytes(self) -> int:
        return self.bytes or 0

    @property
    def place(self) -> Path:
        return self.file.path.parent

    def fetch(self) -> None:
        fetch_url(self.file)

    def __str__(self) -> str:
        known = "unknown size" if self.bytes is None else size(self.bytes)
        return f"{self.label}: {self.file.url}, {known} to download"
