"""The files of a run: each with the hash that was kept of it, each image with that of its row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.cells.features import decode_features
from harness.cells.hashes import FILE, IMAGES, hashed_files, read_hashes
from harness.cells.store import CellStore
from harness.cells.tables import UnreadableTable, decode_images, decode_judgements, decode_scores
from harness.errors import InvalidValueError
from harness.lib.hashing import file_hash
from harness.lib.reading import UnreadableFileError, read_bytes
from harness.records import Status

MAX_TABLE = 2**30
NO_HASHES = f"{FILE}: missing, as in runs of earlier releases: tables are only checked against their own checksums"


@dataclass(frozen=True)
class Files:
    """How many files are as they were written, which are not and why, and what could not be checked."""

    n_intact: int
    n_images: int
    problems: tuple[str, ...]
    unchecked: tuple[str, ...] = ()


def check_files(folder: Path, store: CellStore, with_images: bool) -> Files:
    """Compare every file of a run with its hash. `with_images` false: images are not there, and not looked for."""
    problems, unchecked, intact = [], [], 0
    try:
        hashes = read_hashes(folder)
    except InvalidValueError as error:
        hashes, problems = None, [str(error)]
    if hashes is None and not problems:
        unchecked.append(NO_HASHES)
    there = {path.relative_to(folder).as_posix(): path for path in hashed_files(folder)}
    for name, path in there.items():
        problem = _problem(name, path, hashes)
        intact += problem is None
        problems += [f"{name}: {problem}"] if problem else []
    problems += [f"{name}: missing" for name in sorted((hashes or {}).keys() - there.keys())]
    n_images, of_images = _images(folder, store) if with_images else (0, [])
    return Files(intact, n_images, (*problems, *of_images), tuple(unchecked))


def _problem(name: str, path: Path, hashes: dict[str, str] | None) -> str | None:
    if hashes is not None:
        if name not in hashes:
            return f"{FILE} does not name it"
        if hashes[name] != file_hash(path):
            return f"not of the sha256 in {FILE}"
    return _unreadable(name, path)


def _unreadable(name: str, path: Path) -> str | None:
    """Say why a table cannot be read; its pages have checksums."""
    try:
        data = read_bytes(path, MAX_TABLE) or b""
        if name.startswith("rows/") and name.endswith(".parquet"):
            decode_images(data)
        elif name.startswith("scores/") and name.endswith(".parquet"):
            decode_scores(data, "")
        elif name.startswith("scores/") and name.endswith(".npz"):
            decode_features(data, "")
        elif name == "verdicts.parquet":
            decode_judgements(data)
    except (UnreadableTable, UnreadableFileError) as error:
        return str(error)
    return None


def _images(folder: Path, store: CellStore) -> tuple[int, list[str]]:
    """Compare every image with its row; name images that no row names."""
    rows = store.images()
    done = store.done(verify=True, images=rows)
    broken = [row for key, row in rows.items() if key not in done and row.status is not Status.ERROR]
    problems = [f"{row.file}: {store.problems.get(str(row.file), 'missing or damaged')}" for row in broken]
    named = {row.file for row in rows.values()}
    found = (path for path in sorted((folder / IMAGES).rglob("*")) if path.is_file() and path.name[0] != ".")
    strange = [name for path in found if (name := path.relative_to(folder).as_posix()) not in named]
    return len(done), problems + [f"{name}: no row names it" for name in strange]
