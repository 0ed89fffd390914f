"""Files of weights: where they are, also inside installed packages, and the hash that names them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from harness.lib.hashing import cached_file_hash, text_hash

PACKAGE_PREFIX = "pkg://"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def local_path(source: str) -> Path:
    """Return the path of a file or folder named by a path or by `pkg://package/path`."""
    if source.startswith(PACKAGE_PREFIX):
        return package_folder(source.removeprefix(PACKAGE_PREFIX))
    return Path(source).expanduser().absolute()


def package_folder(path: str) -> Path:
    """Return where `package/path` is, by the package's installation; the path as it is where there is none."""
    package, _, rest = path.partition("/")
    top, *inner = package.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None  # with a dot, it would import the parent
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0], *inner, rest) if locations else Path(path)


def sha256_of(file: Path) -> str | None:
    """Return a file's sha256, or None if it is absent. Large files of the hub's cache carry theirs as name."""
    if not file.is_file():
        return None
    target = file.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    return cached_file_hash(target)


def sha256_of_all(files: Iterable[Path]) -> str | None:
    """Return one hash over the names and contents of files, or None if there are none."""
    lines = [f"{file.name} {sha256_of(file)}\n" for file in sorted(files)]
    return text_hash("".join(lines)) if lines else None

