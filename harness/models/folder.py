"""Where a model's files are, whether they are all there, and the hash that names them. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.lib.hashing import cached_file_hash
from harness.lib.hub_cache import cached_snapshot
from harness.lib.tensor_headers import SUFFIX, FileFault, os_fault, pointer_fault, read_header, shown
from harness.lib.weights import PACKAGE_PREFIX, package_folder
from harness.models.index import FORCED_ZEROS, INDEX, UNUSED_PARTS
from harness.models.weight_files import (
    CHECKPOINTS,
    CONVERT,
    is_pointer,
    is_whole_safetensors,
    part_weights,
    read_json,
    weight_files,
)

__all__ = ["is_whole_safetensors", "weight_files"]  # beside its own

Config = Mapping[str, Any]



def is_folder_source(source: str) -> bool:
    """Tell a path from a hub id: `pkg://...`, absolute, beginning with `.` or `~`, here, or ending as weights do."""
    return source.startswith((PACKAGE_PREFIX, "/", ".", "~")) or source.endswith(CHECKPOINTS) or _is_there(source)


def _is_there(source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError:
        return True


def model_folder(config: Config) -> Path | None:
    """Return the local folder of a model's files; None for a hub model that is not in the local cache."""
    source = str(config["source"])
    if source.startswith(PACKAGE_PREFIX):
        return package_folder(source.removeprefix(PACKAGE_PREFIX))
    if is_folder_source(source):
        return _of_cache(Path(source).expanduser().resolve())
    return cached_snapshot(source, str(config.get("revision") or "main"))


def _of_cache(folder: Path) -> Path:
    """Return the snapshot that `main` is, where the folder is a repository's in the hub's cache; else the folder."""
    if not folder.name.startswith("models--"):
        return folder
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return folder
    snapshot = folder / "snapshots" / commit
    return snapshot if commit.isalnum() and snapshot.is_dir() else folder


def missing_part(folder: Path, variant: str | None, without: Sequence[str] = ()) -> str | None:
    """Return what of a diffusers folder is missing or incomplete, or None; `without`: parts unused."""
    problem = folder_problem(folder, variant, without)
    return problem.reason if problem else None


def folder_problem(folder: Path, variant: str | None, without: Sequence[str] = ()) -> FileFault | None:
    """Return what keeps the files of a diffusers folder from being loaded, by part and file, or None."""
    problem = source_problem(folder)
    if problem is not None:
        return problem
    try:
        for part in sorted(used_parts(folder, without)):
            _check_part(folder / part, part, variant)
    except FileFault as fault:
        return fault
    except OSError as error:
        return os_fault(error).about(_inside(folder, error.filename))
    return None


def source_problem(folder: Path) -> FileFault | None:
    """Return what a source is if not a pipeline folder: a single file, a repository in the hub's cache."""
    try:
        if folder.is_file():
            return _single_file(folder)
        if not folder.is_dir():
            return FileFault("no such folder", "", absent=True)
        if folder.name.startswith("models--") and (folder / "snapshots").is_dir():
            commits = ", ".join(sorted(path.name for path in (folder / "snapshots").iterdir())[:5])
            return FileFault("it is a repository in the hub's cache without a local refs/main",
                             f"Point to one of its snapshots: {folder}/snapshots/<commit>, of {commits or 'none'}.")
    except OSError as error:
        return os_fault(error).about(error.filename)
    return None


def _single_file(file: Path) -> FileFault:
    if file.suffix not in CHECKPOINTS:
        return FileFault("it is a file", "Set the folder that has model_index.json.")
    try:
        if file.suffix == SUFFIX:
            read_header(file)
    except FileFault as fault:
        return fault.about("the file")
    return FileFault("it is a single-file checkpoint, but pipelines are read from folders",
                     f"Convert it once: {CONVERT} {file} <new folder> like=<a diffusers folder of the same kind>")


def used_parts(folder: Path, without: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Return the parts of a diffusers folder that are loaded, each with its library and class. Raises FileFault."""
    index = folder / INDEX
    try:
        content = read_json(index)
    except FileFault as fault:
        raise (_no_pipeline(folder) if fault.absent else fault.about(INDEX)) from None
    parts = {part: (str(entry[0]), str(entry[1])) for part, entry in content.items()
             if part not in (*UNUSED_PARTS, *without) and not part.startswith("_") and isinstance(entry, list)
             and len(entry) == 2 and entry[0] is not None}  # fmt: skip
    outside = next((part for part in parts if Path(part).name != part or part == ".."), None)
    if outside is not None:
        raise FileFault(f"{INDEX} names a part that is not a folder of the pipeline: {shown(outside)}")
    return parts


def _no_pipeline(folder: Path) -> FileFault:
    """Return what a folder without an index is: often the one above or below the pipeline."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{INDEX}"))
    if inside:
        return FileFault(f"{INDEX} is missing", f"It is one folder further down: {', '.join(inside[:5])}.", absent=True)
    kind = _kind_of_part(folder)
    if (folder.parent / INDEX).is_file():
        return FileFault(f"{INDEX} is missing", f"This is a part of a pipeline: the folder above, {folder.parent}, has "
                         "one.", absent=True)  # fmt: skip
    if kind is not None:
        setting = "unet" if kind.startswith("UNet") else "text_encoder" if "Text" in kind else None
        remedy = f"To use it in a model, set model.{setting}={folder}" if setting else "Use the pipeline's folder."
        return FileFault(f"{INDEX} is missing: this is a part of a pipeline, a {shown(kind)}", remedy, absent=True)
    single = sorted(path for path in folder.iterdir() if path.suffix in CHECKPOINTS)
    if single:
        return FileFault(f"{INDEX} is missing", f"If {single[0].name} is a single-file checkpoint, convert it once: "
                         f"{CONVERT} {single[0]} <new folder> like=<a diffusers folder of the same kind>", absent=True)
    return FileFault(f"{INDEX} is missing", "", absent=True)


def _kind_of_part(folder: Path) -> str | None:
    """Return the class of the part that a folder is; None if it is none."""
    try:
        config = read_json(folder / "config.json")
    except FileFault:
        return None
    listed = config.get("architectures")
    kind = config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else None)
    return kind if isinstance(kind, str) else None


def _inside(folder: Path, filename: Any) -> str:
    path = Path(str(filename))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(filename)


def has_variant(folder: Path, variant: str | None) -> bool:
    """Return whether the folder has any file of `variant`: one saved by the user rarely does."""
    return bool(variant) and any(folder.glob(f"*/*.{variant}*.safetensors"))


def pipeline_class(folder: Path) -> str | None:
    """Return the name of the pipeline that a diffusers folder holds; None if it does not say."""
    name = _index(folder).get("_class_name")
    return name if isinstance(name, str) else None


def _index(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / INDEX)
    except FileFault:
        return {}


def _check_part(folder: Path, part: str, variant: str | None) -> None:
    """Raise FileFault unless the files of a part are there and its weights whole."""
    if not folder.is_dir():
        raise FileFault(f"{part}/ is missing", "", absent=True)
    if part.endswith("scheduler"):
        _settings(_check_there(folder, part, ("scheduler_config.json",)), part)
    elif part.startswith("tokenizer"):
        words = _check_there(folder, part, ("vocab.json", "tokenizer.json", "spiece.model"))
        if words.suffix == ".json" and not _settings(words, part):
            raise FileFault(f"{part}/{words.name} has no vocabulary")
    else:
        _settings(_check_there(folder, part, ("config.json",)), part)
        for file in part_weights(folder, part, variant):
            try:
                read_header(file)
            except FileFault as fault:
                raise fault.about(f"{part}/{file.name}") from None


def _settings(file: Path, part: str) -> dict[str, Any]:
    try:
        return read_json(file)
    except FileFault as fault:
        raise fault.about(f"{part}/{file.name}") from None


def _check_there(folder: Path, part: str, names: Sequence[str]) -> Path:
    """Return the first of some files that is there. Raises FileFault."""
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise FileFault(f"{part}/{names[0]} is missing", "", absent=True)
    with file.open("rb"):  # it may be read
        pass
    if is_pointer(file):
        raise pointer_fault().about(f"{part}/{file.name}")
    return file


def folder_fingerprint(folder: Path, variant: str | None, without: Sequence[str] = ()) -> str:
    """Return sha256 over the names and contents of the files that the pipeline loads, and what it does with texts."""
    digest = hashlib.sha256()
    for file in sorted(_loaded_files(folder, variant, without)):
        content = cached_file_hash(file)
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    forced = _index(folder).get(FORCED_ZEROS)
    if forced is not None:
        digest.update(f"{FORCED_ZEROS} {forced}\n".encode())
    return digest.hexdigest()


def _loaded_files(folder: Path, variant: str | None, without: Sequence[str]) -> Iterator[Path]:
    unused = (*UNUSED_PARTS, *without)
    for part in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in unused):
        yield from (file for file in part.iterdir() if file.suffix in (".json", ".txt", ".model"))
        yield from (file for file in weight_files(part, variant) if file.is_file())

