"""Where a model's files are, whether they are all there, and the hash that names them. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]

UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")
PACKAGE_PREFIX = "pkg://"
FORCED_ZEROS = "force_zeros_for_empty_prompt"  # the one setting of model_index.json that changes pixels (SDXL)


def is_folder_source(source: str) -> bool:
    """Tell a folder from a hub id: folders are `pkg://...`, absolute, begin with `.` or `~`, or exist."""
    return source.startswith((PACKAGE_PREFIX, "/", ".", "~")) or Path(source).is_dir()


def model_folder(config: Config) -> Path | None:
    """Return the local folder of a model's files; None for a hub model that is not in the local cache."""
    source = str(config["source"])
    if source.startswith(PACKAGE_PREFIX):
        return _package_folder(source.removeprefix(PACKAGE_PREFIX))
    if is_folder_source(source):
        return Path(source).expanduser().resolve()
    return cached_snapshot(source, str(config.get("revision") or "main"))


def _package_folder(path: str) -> Path:
    package, _, rest = path.partition("/")
    top, *inner = package.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None  # with a dot, it would import the parent
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0], *inner, rest) if locations else Path(path)


def hub_cache() -> Path:
    """Return the folder where huggingface_hub keeps its downloads."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(explicit).expanduser() if explicit else _hub_home() / "hub"


def _hub_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME") or Path(cache, "huggingface")).expanduser()


def cached_snapshot(hub_id: str, revision: str) -> Path | None:
    """Return the folder of a hub model's revision (a commit, branch or tag) in the local cache, if it is there."""
    repo = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    reference = repo / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = repo / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def is_offline() -> bool:
    """Say whether the environment forbids going to the hub."""
    return any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in
               ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def has_token() -> bool:
    """Say whether a hub token is set or stored."""
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    return Path(os.environ.get("HF_TOKEN_PATH") or _hub_home() / "token").expanduser().is_file()


def missing_part(folder: Path, variant: str | None, without: Sequence[str] = ()) -> str | None:
    """Return the first part of a diffusers folder that is not there or not whole, or None; `without`: parts unused."""
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text())
    except FileNotFoundError:
        return "model_index.json is missing"
    except (OSError, ValueError):
        return "model_index.json cannot be read"
    for part, entry in sorted(parts.items()):
        if part in (*UNUSED_PARTS, *without) or not isinstance(entry, list) or entry[0] is None:
            continue
        problem = _part_problem(folder / part, part, variant)
        if problem:
            return problem
    return None


def has_variant(folder: Path, variant: str | None) -> bool:
    """Say whether the folder has any file of `variant`: one saved by the user rarely does."""
    return bool(variant) and any(folder.glob(f"*/*.{variant}*.safetensors"))


def pipeline_class(folder: Path) -> str | None:
    """Return the name of the pipeline that a diffusers folder holds; None where it does not say."""
    found = _index(folder).get("_class_name")
    return found if isinstance(found, str) else None


def _index(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _part_problem(folder: Path, part: str, variant: str | None) -> str | None:
    if not folder.is_dir():
        return f"{part}/ is missing"
    if part.endswith("scheduler"):
        return None if (folder / "scheduler_config.json").is_file() else f"{part}/scheduler_config.json is missing"
    if part.startswith("tokenizer"):
        files = ("tokenizer.json", "vocab.json", "spiece.model")
        return None if any((folder / name).is_file() for name in files) else f"{part}/vocab.json is missing"
    if not (folder / "config.json").is_file():
        return f"{part}/config.json is missing"
    weights = weight_files(folder, variant)
    if not weights:
        return f"{part}/ has no safetensors weights" + (f" of variant {variant}" if variant else "")
    bad = next((file for file in weights if not is_whole_safetensors(file)), None)
    return f"{part}/{bad.name} is missing or cut short" if bad else None


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Return the safetensors files of one part: of `variant` if it has them, else the plain ones, as diffusers does."""
    for suffix in ([f".{variant}"] if variant else []) + [""]:
        for stem in ("diffusion_pytorch_model", "model"):
            index = folder / f"{stem}.safetensors.index{suffix}.json"
            if index.is_file():
                shards = json.loads(index.read_text())["weight_map"].values()
                return [folder / name for name in sorted(set(shards))]
            file = folder / f"{stem}{suffix}.safetensors"
            if file.is_file():
                return [file]
    return []


def is_whole_safetensors(file: Path) -> bool:
    """Compare a safetensors file's length with the one its header promises. Reads the header only."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (OSError, ValueError, MemoryError, OverflowError):
        return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return file.stat().st_size == 8 + length + max(ends, default=0)


def folder_fingerprint(folder: Path, variant: str | None, without: Sequence[str] = ()) -> str:
    """Return sha256 over the names and contents of the files that the pipeline loads, and what it does with texts."""
    digest = hashlib.sha256()
    for file in sorted(_loaded_files(folder, variant, without)):
        stat = file.stat()
        content = _file_sha256(str(file), stat.st_size, stat.st_mtime_ns)
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


@lru_cache(maxsize=256)
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
