"""LoRA files: which weight each pair belongs to, and adding it. W' = W + s (alpha / r) up down (Hu et al., 2021).

The names that diffusers writes (also of older versions) and kohya's, where they name diffusers' modules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoints import finite, safetensors_header
from harness.errors import InvalidValueError

_DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight", ".lora_linear_layer.down.weight",
         "_lora.down.weight")  # fmt: skip
_UP = (".lora_B.weight", ".lora.up.weight", ".lora_up.weight", ".lora_linear_layer.up.weight", "_lora.up.weight")
_ALPHA = ".alpha"
_DIFFUSERS = {"unet.": "unet", "text_encoder_2.": "text_encoder_2", "text_encoder.": "text_encoder"}
_KOHYA = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te_": "text_encoder"}
_TEXT = ("text_model.", "text_model_")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pair:
    """Tensor names of one pair, the module that it changes, and its rank; alpha by name, or as the metadata says it."""

    part: str
    module: str
    down: str
    up: str
    rank: int
    alpha_name: str | None
    alpha: float | None
    by_root: bool  # rank-stabilised: alpha / sqrt(r)

    def scale(self, tensors: Mapping[str, Any]) -> float:
        alpha = float(tensors[self.alpha_name]) if self.alpha_name else self.alpha
        return 1.0 if alpha is None else alpha / (math.sqrt(self.rank) if self.by_root else self.rank)


@dataclass(frozen=True)
class Lora:
    file: Path
    pairs: tuple[Pair, ...]


def read_lora(file: Path, bases: Mapping[str, Shapes]) -> Lora:
    """Read a LoRA's header against the shapes of the model's parts. Raises InvalidValueError in one line."""
    header = safetensors_header(file)
    told = _told(file, header.pop("__metadata__", None))
    roles: dict[str, dict[str, str]] = {}
    for name in header:
        module, role = _split(file, name)
        roles.setdefault(module, {})[role] = name
    pairs = tuple(_pair(file, module, found, header, bases, told) for module, found in roles.items())
    if not pairs:
        raise InvalidValueError(f"model.lora: there is no LoRA in {file}.")
    return Lora(file, pairs)


def _told(file: Path, metadata: Any) -> Mapping[str, Any]:
    """Return the adapter's settings that diffusers writes into the file's metadata."""
    text = metadata.get("lora_adapter_metadata") if isinstance(metadata, Mapping) else None
    try:
        told = json.loads(text) if text else {}
    except ValueError:
        told = {}
    if not isinstance(told, dict):
        told = {}
    if any(key.endswith("use_dora") and value for key, value in told.items()):
        raise InvalidValueError(f"model.lora: {file} is a DoRA; only plain LoRAs are read.")
    return told


def _split(file: Path, name: str) -> tuple[str, str]:
    for role, endings in (("down", _DOWN), ("up", _UP), ("alpha", (_ALPHA,))):
        for ending in endings:
            if name.endswith(ending):
                return name.removesuffix(ending), role
    raise InvalidValueError(f"model.lora: {file} holds {name}, which is no part of a plain LoRA.")


def _pair(file: Path, module: str, found: Mapping[str, str], header: Mapping[str, Any], bases: Mapping[str, Shapes],
          told: Mapping[str, Any]) -> Pair:  # fmt: skip
    if not {"down", "up"} <= found.keys():
        raise InvalidValueError(f"model.lora: {file} has only {', '.join(sorted(found))} of {module}.")
    place = next(_places(module, bases), None)
    if place is None:
        raise InvalidValueError(f"model.lora: {file} is for another model: this one has no {module}.")
    part, name = place
    down, up = (tuple(header[found[side]]["shape"]) for side in ("down", "up"))
    weight = bases[part][f"{name}.weight"]
    fits = len(down) > 1 and len(up) > 1 and up[:2] == (weight[0], down[0])
    if not fits or math.prod(down[1:]) != math.prod(weight[1:]) or math.prod(up[2:]) != 1:
        raise InvalidValueError(f"model.lora: {file} does not fit: {module} is {up} x {down}, and the model's weight "
                                f"has shape {weight}.")
    alpha, by_root = _told_alpha(told, part, name)
    return Pair(part, name, found["down"], found["up"], down[0], found.get("alpha"), alpha, by_root)


def _places(module: str, bases: Mapping[str, Shapes]) -> Iterator[tuple[str, str]]:
    """Yield the part and module that a pair's name can mean."""
    own = module.replace(".processor.to_out", ".to_out.0").replace(".processor.", ".")
    for prefix, part in _DIFFUSERS.items():
        name = own.removeprefix(prefix)
        if name != own:
            yield from _in_part(part, name.removeprefix(_TEXT[0]), bases)
    yield from _in_part("unet", own, bases)
    for prefix, part in _KOHYA.items():
        if own.startswith(prefix):
            wanted = own.removeprefix(prefix).removeprefix(_TEXT[1])
            modules = (name.removesuffix(".weight") for name in bases.get(part, ()))
            yield from ((part, name) for name in modules if name.replace(".", "_") == wanted)


def _in_part(part: str, name: str, bases: Mapping[str, Shapes]) -> Iterator[tuple[str, str]]:
    if f"{name}.weight" in bases.get(part, {}):
        yield part, name


def _told_alpha(told: Mapping[str, Any], part: str, module: str) -> tuple[float | None, bool]:
    pattern = told.get(f"{part}.alpha_pattern") or {}
    alpha = next((value for key, value in pattern.items() if module == key or module.endswith(f".{key}")),
                 told.get(f"{part}.lora_alpha"))
    return (None if alpha is None else float(alpha)), bool(told.get(f"{part}.use_rslora"))


def merge(lora: Lora, part: str, modules: Mapping[str, Any], scale: float) -> None:
    """Add the pairs of one part to the weights of its modules, in float32."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(lora.file)
    finite(lora.file, tensors)
    with torch.no_grad():
        for pair in (pair for pair in lora.pairs if pair.part == part):
            weight = modules[pair.module].weight
            delta = tensors[pair.up].float().flatten(1) @ tensors[pair.down].float().flatten(1)
            change = scale * pair.scale(tensors) * delta.reshape(weight.shape)
            weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))
