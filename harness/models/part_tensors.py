"""The tensors of a part's files, of safetensors or of torch, by plain names: in the plan their shapes, later they.

What authors write around a state dict is taken off: {"state_dict": ...}, one dict for each module, `unet.` or
`text_encoder.` before every name, `text_model.`, counters of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.lib.tensor_headers import SUFFIX, TensorEntry, finite, header_of
from harness.lib.torch_headers import content_of
from harness.models.folder import model_folder
from harness.models.weight_files import weight_files

if TYPE_CHECKING:
    from torch import Tensor

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

COMPVIS = "model.diffusion_model."
_PREFIX = "text_model."  # in files of CLIP's text encoder; not in the modules of newer transformers
_PARTS = ("unet.", "text_encoder.")


def shapes_of(files: Sequence[Path]) -> Shapes:
    """Return the shape of every tensor in files of a part, from their headers, by plain names. Raises HarnessError."""
    return {name: entry.shape for file in files for name, entry in entries_of(file).items()}


def entries_of(file: Path) -> dict[str, TensorEntry]:
    """Return what is known of the tensors in a file of a part, by plain names. Raises HarnessError."""
    return plain_tensors(content_of(file), lambda one: isinstance(one, TensorEntry))


def tensors_of(files: Sequence[Path]) -> dict[str, Tensor]:
    """Read the tensors of a part's files by plain names. Raises HarnessError, also where one is not finite."""
    import torch

    tensors: dict[str, Tensor] = {}
    for file in files:
        content, _ = read_checkpoint(file)
        read = plain_tensors(content, torch.is_tensor)
        finite(file, read)
        tensors |= read
    return tensors


def plain_tensors(content: Mapping[str, Any], is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """Return the tensors of a checkpoint's content by plain names."""
    inner = content.get("state_dict", content)
    flat: dict[str, Any] = {}
    for name, value in (inner if isinstance(inner, Mapping) else content).items():
        if is_tensor(value):
            flat[name] = value
        elif isinstance(value, Mapping):  # one dict for each module
            flat |= {f"{name}.{key}": one for key, one in value.items() if is_tensor(one)}
    for part in _PARTS:
        if flat and all(name.startswith(part) for name in flat):
            flat = {name.removeprefix(part): value for name, value in flat.items()}
    return {plain_name(name): value for name, value in flat.items() if not name.endswith("position_ids")}


def plain_name(name: str) -> str:
    """Return a tensor's or module's name as every version of transformers can find it."""
    return name.removeprefix(_PREFIX)


def base_shapes(config: Config, part: str) -> Shapes | None:
    """Return the shapes of a model's own part, None if its weights are not on this machine."""
    folder = model_folder(config) if config.get("source") else None
    files = weight_files(folder / part, config.get("variant")) if folder is not None else []
    return {plain_name(name): shape for file in files for name, shape in header_of(file).shapes.items()
            if not name.endswith("position_ids")} or None  # fmt: skip


def misnamed(tensors: Iterable[str]) -> str | None:
    """Return what a state dict is by its names, where it is one of another kind than diffusers writes."""
    names = list(tensors)
    if any(name.startswith(COMPVIS) for name in names):
        return f"it has CompVis' names ({COMPVIS}...); diffusers' names are needed"
    if any(".lora_" in name or name.endswith((".lora_up.weight", ".alpha")) for name in names):
        return "it is a LoRA or another adapter"
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Read a safetensors file, or a torch file of plain tensors: its content and its metadata.

    Raises MissingResourceError, or InvalidValueError if it cannot be read without running code from it.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from harness.errors import InvalidValueError

    content_of(path)  # whole, and of names and tensors only
    try:
        if path.suffix == SUFFIX:
            return dict(load_file(path)), header_of(path).metadata
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InvalidValueError(f"the checkpoint {path} cannot be read as plain tensors: {reason}") from None
    if not isinstance(content, dict):
        raise InvalidValueError(f"the checkpoint {path} holds a {type(content).__name__}, not named tensors.")
    return content, {}
