"""LoRA files: which weight each pair belongs to, and adding it. W' = W + s (alpha / r) up down (Hu et al., 2021).

The names that diffusers writes (also of older versions), PEFT's, and kohya's: those of diffusers' modules or, as for
SDXL, of CompVis'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InvalidValueError
from harness.lib.reading import parse_json
from harness.lib.tensor_headers import FileFault, TensorEntry, check_computable, finite, header_of, shown
from harness.models.ldm_names import ldm_names
from harness.models.weight_files import read_json

_DOWN = (".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", ".lora_down.weight",
         ".lora_linear_layer.down.weight", "_lora.down.weight")  # fmt: skip
_UP = (".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight", ".lora_up.weight",
       ".lora_linear_layer.up.weight", "_lora.up.weight")  # fmt: skip
_ALPHA, _WEIGHT = ".alpha", ".weight"
_DIFFUSERS = {"unet.": "unet", "text_encoder_2.": "text_encoder_2", "text_encoder.": "text_encoder"}
_KOHYA = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te_": "text_encoder"}
MAX_ALPHA = 1e6
_PEFT = "base_model.model."
ADAPTER = "adapter_config.json"  # PEFT's settings, in a file beside
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
    """Read a LoRA's header against the shapes of the model's parts. Raises HarnessError in one line."""
    header = header_of(file, f"model.lora: {file}")
    try:
        check_computable(header)
    except FileFault as fault:
        raise fault.about(f"model.lora: {file}").as_error() from None
    told = _told(file, header.metadata)
    roles: dict[str, dict[str, str]] = {}
    for name in header.tensors:
        module, role = _split(file, name)
        roles.setdefault(module, {})[role] = name
    if not roles:
        raise InvalidValueError(f"model.lora: no LoRA in {file}.")
    places = _all_places(file, roles, bases)
    return Lora(file, tuple(_pair(file, module, names, header.tensors, bases, (told, places[module]))
                            for module, names in roles.items()))  # fmt: skip


def _all_places(file: Path, modules: Iterable[str], bases: Mapping[str, Shapes]) -> dict[str, tuple[str, str]]:
    """Return part and module of every pair. Raises InvalidValueError if some have no place in the model."""
    names = {part: [name.removesuffix(_WEIGHT) for name in shapes if name.endswith(_WEIGHT)]
             for part, shapes in bases.items()}  # fmt: skip
    flat = {part: {name.replace(".", "_"): name for name in part_names} for part, part_names in names.items()}
    compvis = {ldm.replace(".", "_"): name for ldm, name in ldm_names(names.get("unet", ())).items()}
    flat["unet"] = compvis | flat.get("unet", {})
    places = {module: next(_places(module, bases, flat), None) for module in modules}
    lost = [module for module, place in places.items() if place is None]
    if lost:
        raise InvalidValueError(f"model.lora: {file} is for another model: this one has no {shown(lost[0])} "
                                f"({len(lost)} of {len(places)} modules do not fit).")
    return {module: place for module, place in places.items() if place is not None}


def adapter_file(file: Path) -> Path | None:
    """Return the file of settings that PEFT writes beside its weights, where the LoRA has PEFT's names."""
    beside = file.with_name(ADAPTER)
    named = any(_PEFT in name for name in header_of(file, f"model.lora: {file}").tensors)
    return beside if named and beside.is_file() else None


def _told(file: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the adapter's settings: what diffusers writes into the file's metadata, or PEFT into a file beside."""
    text = metadata.get("lora_adapter_metadata")
    try:
        told = parse_json(text) if text else {}
    except ValueError:
        told = {}
    if not isinstance(told, dict):
        told = {}
    adapter = adapter_file(file)
    if adapter is not None and not told:
        told = _of_peft(file, adapter)
    if any(key.endswith("use_dora") and value for key, value in told.items()):
        raise InvalidValueError(f"model.lora: {file} is a DoRA; only plain LoRAs are read.")
    return told


def _of_peft(file: Path, adapter: Path) -> dict[str, Any]:
    """Return PEFT's settings by the names that diffusers gives them, for every part."""
    try:
        settings = read_json(adapter)
    except FileFault as fault:
        raise fault.about(f"model.lora: {adapter}").as_error() from None
    return {f"{part}.{key}": value for part in _DIFFUSERS.values() for key, value in settings.items()}


def _split(file: Path, name: str) -> tuple[str, str]:
    for role, endings in (("down", _DOWN), ("up", _UP), ("alpha", (_ALPHA,))):
        for ending in endings:
            if name.endswith(ending):
                return name.removesuffix(ending), role
    raise InvalidValueError(f"model.lora: {file} holds {shown(name)}, which is not part of a plain LoRA.")


def _pair(file: Path, module: str, roles: Mapping[str, str], tensors: Mapping[str, TensorEntry],
          bases: Mapping[str, Shapes], known: tuple[Mapping[str, Any], tuple[str, str]]) -> Pair:  # fmt: skip
    if not {"down", "up"} <= roles.keys():
        raise InvalidValueError(f"model.lora: {file} has only {', '.join(sorted(roles))} of {shown(module)}.")
    told, (part, name) = known
    down, up = (tensors[roles[side]].shape for side in ("down", "up"))
    weight = bases[part][f"{name}{_WEIGHT}"]
    fits = len(down) > 1 and len(up) > 1 and down[0] > 0 and up[:2] == (weight[0], down[0])
    if not fits or math.prod(down[1:]) != math.prod(weight[1:]) or math.prod(up[2:]) != 1:
        raise InvalidValueError(f"model.lora: {file} does not fit: {shown(module)} is {up} x {down}, and the model's "
                                f"weight has shape {weight}.")
    if "alpha" in roles and math.prod(tensors[roles["alpha"]].shape) != 1:
        raise InvalidValueError(f"model.lora: {file} has an alpha of {shown(module)} that is not a number.")
    alpha, by_root = _told_alpha(file, told, part, name)
    return Pair(part, name, roles["down"], roles["up"], down[0], roles.get("alpha"), alpha, by_root)


def _places(module: str, bases: Mapping[str, Shapes], flat: Mapping[str, Mapping[str, str]]
            ) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Yield the part and module that a pair's name can mean; `flat` are modules by names with `_` for `.`."""
    plain = module.replace(".processor.to_out", ".to_out.0").replace(".processor.", ".").replace(_PEFT, "")
    for prefix, part in _DIFFUSERS.items():
        name = plain.removeprefix(prefix)
        if name != plain:
            yield from _in_part(part, name.removeprefix(_TEXT[0]), bases)
    yield from _in_part("unet", plain, bases)
    if _PEFT in module:
        yield from _in_part("text_encoder", plain.removeprefix(_TEXT[0]), bases)
    for prefix, part in _KOHYA.items():
        if plain.startswith(prefix):
            wanted = plain.removeprefix(prefix).removeprefix(_TEXT[1])
            if wanted in flat.get(part, {}):
                yield part, flat[part][wanted]


def _in_part(part: str, name: str, bases: Mapping[str, Shapes]) -> Iterator[tuple[str, str]]:
    if f"{name}{_WEIGHT}" in bases.get(part, {}):
        yield part, name


def _told_alpha(file: Path, told: Mapping[str, Any], part: str, module: str) -> tuple[float | None, bool]:
    pattern = told.get(f"{part}.alpha_pattern") or {}
    if not isinstance(pattern, Mapping):
        raise InvalidValueError(f"model.lora: the settings of {file} have an invalid alpha_pattern.")
    alpha = next((value for key, value in pattern.items() if module == key or module.endswith(f".{key}")),
                 told.get(f"{part}.lora_alpha"))
    if alpha is None:
        return None, bool(told.get(f"{part}.use_rslora"))
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= MAX_ALPHA:
        raise InvalidValueError(f"model.lora: the settings of {file} have an alpha that is not a number "
                                f"({shown(alpha)}).")
    return float(alpha), bool(told.get(f"{part}.use_rslora"))


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
