"""A transformers model that an evaluator uses: its folder, its identity, its downloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import MissingResourceError
from harness.lib.hub_cache import cached_snapshot
from harness.lib.wanted import HubFiles
from harness.lib.weights import PACKAGE_PREFIX, local_path, sha256_of_all
from harness.models.folder import is_folder_source, weight_files
from harness.models.weight_checks import network_problem

SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model")


@dataclass(frozen=True)
class ModelSource:
    """Names a model: a hub id with a revision, a folder, or `pkg://package/folder`. `what` it is, for messages."""

    source: str
    revision: str | None
    what: str

    kind: ClassVar[str | None] = None  # its class in transformers; null: as its config says

    def folder(self) -> Path | None:
        """Return the folder of its files; None for a hub model that is not in the local cache."""
        if is_folder_source(self.source):
            return local_path(self.source)
        return cached_snapshot(self.source, self.revision or "main")

    def missing(self) -> str | None:
        """Say in one line what is missing and how to get it. A pickle does not count as weights."""
        folder = self.folder()
        if folder is None:
            return self.not_cached()
        weights = weight_files(folder, None)
        if not (folder / "config.json").is_file() or not weights:
            return f"no {self.what} (config.json and safetensors weights) in {folder}"
        return self.not_whole(folder)

    def not_whole(self, folder: Path) -> str | None:
        """Say in one line what its weights lack of what its class wants, which loading would make up at random."""
        problem = network_problem(folder, self.source, kind=self.kind)
        return f"the {self.what} is incomplete: {problem}" if problem else None

    def not_cached(self) -> str:
        """Say how to get a hub model."""
        command = f"hf download {self.source}" + (f" --revision {self.revision}" if self.revision else "")
        return f"{self.what} {self.source} is not in the local cache. Get it: {command}"

    def named(self) -> str:
        """Return the name in an identity: a local folder has none."""
        is_local = is_folder_source(self.source) and not self.source.startswith(PACKAGE_PREFIX)
        return "local" if is_local else self.source

    def required(self) -> Path:
        """Return the folder. Raises MissingResourceError."""
        import torch  # noqa: F401 - it is about to be loaded: its weights are compared in this process

        missing, folder = self.missing(), self.folder()
        if missing or folder is None:
            raise MissingResourceError(missing or f"no {self.what} at {self.source}")
        return folder

    def downloads(self) -> tuple[HubFiles, ...]:
        """Return what to fetch of the hub: small files and safetensors; nothing for a folder."""
        if is_folder_source(self.source):
            return ()
        return (HubFiles(self.source, self.revision, (*SMALL_FILES, "*.safetensors")),)

    def identity(self) -> Mapping[str, Any]:
        """Return the name and the hash of all files that are read."""
        folder = self.folder()
        files = {file for pattern in SMALL_FILES for file in folder.glob(pattern)} if folder else set()
        files |= set(weight_files(folder, None)) if folder else set()
        return {"model": self.named(), "revision": self.revision, "files_sha256": sha256_of_all(files)}
