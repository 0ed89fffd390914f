"""Which text encoder a model has, by the content of its weights: what a direction in its space is bound to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.lib.reading import UnreadableFileError, read_json
from harness.models.folder import model_folder, weight_files
from harness.models.part_tensors import tensors_of

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

PARTS = ("text_encoder", "text_encoder_2")
# Not read by the sequence of embeddings: a counter of older libraries, and the projection of the pooled embedding.
_UNUSED = ("position_ids", "text_projection.weight")
_PREFIX = "text_model."  # in files; not in the modules of newer transformers


def encoder_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return sha256 over names, shapes and values, rounded to float16: one encoder stored in two precisions has one."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted((name.removeprefix(_PREFIX), value) for name, value in tensors):
        if name.endswith(_UNUSED):
            continue
        half = value.detach().to("cpu", torch.float16).contiguous()
        digest.update(f"{name} {tuple(half.shape)}\n".encode())
        digest.update(half.numpy().tobytes())
    return digest.hexdigest()


def loaded_encoders(model: LoadedModel) -> list[str]:
    """Return the hash of each text encoder of a loaded pipeline, in order."""
    parts = [getattr(model.pipe, part, None) for part in PARTS]
    return [encoder_hash(part.named_parameters()) for part in parts if part is not None]


def stored_encoders(config: Mapping[str, Any]) -> list[str]:
    """Return the hash of each text encoder that a settled model config names; empty if the files are not here."""
    folder = model_folder(config)
    file_lists = [_files(config, folder, part) for part in PARTS] if folder else []
    return [encoder_hash(_tensors(files)) for files in file_lists if files]


def _files(config: Mapping[str, Any], folder: Path, part: str) -> list[Path]:
    custom = Path(str(config[part])) if config.get(part) else None
    if custom is not None:
        return [custom] if custom.is_file() else weight_files(custom, None) or weight_files(custom / part, None)
    return [file for file in weight_files(folder / part, config.get("variant")) if file.is_file()]


def _tensors(files: Sequence[Path]) -> list[tuple[str, Tensor]]:
    return list(tensors_of(files).items())


def text_shape(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (L, D) of the text embeddings that the denoiser of a settled model config reads; None without its files.

    D counts the channels of all its CLIP encoders.
    """
    folder = model_folder(config) if config.get("source") else None
    sizes = [_size(folder / part) for part in PARTS if (folder / part).is_dir()] if folder else []
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(sizes):
        return None
    return known[0][0], sum(width for _, width in known)


def _size(part: Path) -> tuple[int, int] | None:
    try:
        content = read_json(part / "config.json") or {}
    except UnreadableFileError:
        return None
    length, width = content.get("max_position_embeddings"), content.get("hidden_size")
    return (length, width) if isinstance(length, int) and isinstance(width, int) else None
