"""Which weight files a part of a pipeline has: chosen as diffusers chooses, shards by their index. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.lib import reading
from harness.lib.tensor_headers import LFS_POINTER, SUFFIX, FileFault, os_fault, pointer_fault, read_header, shown

STEMS = ("diffusion_pytorch_model", "model")  # of diffusers, of transformers
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CHECKPOINTS = (SUFFIX, *PICKLES)
MAX_JSON = 32 << 20  # bytes
CONVERT = "python -m harness convert"


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Return the safetensors files of one part: of `variant` if it has them, else the plain ones, as diffusers does.

    Raises HarnessError, in one line, where the index of shards cannot be used.
    """
    try:
        return _chosen(folder, variant)
    except FileFault as fault:
        raise FileFault(f"{folder}/{fault.reason}", fault.remedy, fault.absent).as_error() from None
    except OSError as error:
        raise os_fault(error).about(error.filename or folder).as_error() from None


def part_weights(folder: Path, part: str, variant: str | None) -> list[Path]:
    """Return the weight files of the part of a pipeline in `folder`. Raises FileFault that says what is there instead.
    """
    try:
        files = _chosen(folder, variant)
    except FileFault as fault:
        raise FileFault(f"{part}/{fault.reason}", fault.remedy, fault.absent) from None
    if not files:
        raise _without_weights(folder, part, variant)
    stem = own_stem(folder)
    if stem and not files[0].name.startswith(stem):
        raise FileFault(f"{part}/{files[0].name} has an unexpected name",
                        f"Rename it to {files[0].name.replace('model', stem, 1)}." if stem != "model" else
                        f"Rename it to {files[0].name.replace(STEMS[0], stem, 1)}.")
    return files


def _chosen(folder: Path, variant: str | None) -> list[Path]:
    preferred = own_stem(folder)
    stems = sorted(STEMS, key=lambda stem: stem != preferred)
    for suffix in ([f".{variant}"] if variant else []) + [""]:
        for stem in stems:
            index = folder / f"{stem}{SUFFIX}.index{suffix}.json"
            if index.is_file():
                return _shards(folder, index)
            file = folder / f"{stem}{suffix}{SUFFIX}"
            if file.is_file() or file.is_symlink():
                return [file]
    return []


def own_stem(folder: Path) -> str | None:
    """Return the name that a part's own library looks for; None if its config does not tell the library."""
    try:
        config = read_json(folder / "config.json")
    except FileFault:
        return None
    if isinstance(config.get("_class_name"), str):
        return STEMS[0]
    return STEMS[1] if "architectures" in config or "model_type" in config else None


def _shards(folder: Path, index: Path) -> list[Path]:
    """Return the shards that an index names. Raises FileFault for one without shards, or that leads elsewhere."""
    try:
        named = read_json(index).get("weight_map")
    except FileFault as fault:
        raise fault.about(index.name) from None
    if not isinstance(named, dict) or not named:
        raise FileFault(f"{index.name} lists no shards (it has no weight_map)",
                        "Delete it if the weights are in one file; otherwise download it again.")
    for name in named.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX) or "\\" in name:
            raise FileFault(f"{index.name} names a shard that is not a file in its folder: {shown(name)}")
    return [folder / name for name in sorted(set(named.values()))]


def _without_weights(folder: Path, part: str, variant: str | None) -> FileFault:
    """Return what a folder without the wanted weights has instead, and the next step."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    variants = _variants(names)
    if variants:
        first = "fp16" if "fp16" in variants else variants[0]
        return FileFault(f"{part}/ has weights of the variant {' and '.join(variants)} only",
                         f"Set model.variant={first}.")
    tensors = [name for name in names if name.endswith(SUFFIX)]
    if any(re.search(r"-\d+-of-\d+", name) for name in tensors):
        return FileFault(f"{part}/ has sharded weights but no index", "Download the part again.")
    stem = own_stem(folder) or STEMS[0]
    if tensors:
        return FileFault(f"{part}/ has no safetensors weights with an expected name (it has {tensors[0]})",
                         f"Rename them to {stem}{SUFFIX}.")
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return FileFault(f"{part}/ has no safetensors weights, only pickles ({pickles[0]}), which are not read",
                         f"Convert the pipeline once: {CONVERT} {folder.parent} <new folder>")
    wanted = f" of variant {variant}" if variant else ""
    others = [name for name in names if not name.endswith((".json", ".txt", ".md"))]
    has = f" (it has {others[0]})" if others else ""
    return FileFault(f"{part}/ has no safetensors weights{wanted}{has}", "", absent=True)


def _variants(names: Sequence[str]) -> list[str]:
    """Return the variants of which there are weights: stem.fp16.safetensors, or an index or shards of it."""
    patterns = [rf"{stem}(?:\.safetensors\.index)?\.([A-Za-z0-9_]+)(?:-\d+-of-\d+)?\.(?:safetensors|json)"
                for stem in STEMS]  # fmt: skip
    variants = {match[1] for name in names for pattern in patterns if (match := re.fullmatch(pattern, name))}
    return sorted(variants - {"safetensors", "index"})


def is_whole_safetensors(file: Path) -> bool:
    """Return whether a safetensors file can be read and is as long as its header promises. Reads the header only."""
    try:
        read_header(file)
    except FileFault:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Return a small JSON file of settings. Raises FileFault where it cannot be read or holds no settings."""
    try:
        content = reading.read_json(path, MAX_JSON)
    except reading.UnreadableFileError as error:
        if is_pointer(path):
            raise pointer_fault() from None
        raise FileFault(f"cannot be read: {error.reason.replace('Permission', 'permission')}",
                        "Download it again, or ask its owner for read access.") from None
    if content is None:
        raise FileFault("is missing", "", absent=True)
    return content


def is_pointer(path: Path) -> bool:
    """Return whether git-lfs left a pointer in a file's place."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False
