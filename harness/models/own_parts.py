"""A custom U-Net, text encoder or LoRAs for a model: checked by their headers before anything loads.

Files are safetensors or, of parts, torch's state dicts, read as plain tensors. Names and shapes must be those of the
model's own part: all of them or, where `model.unet_partial` says so, some.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.checks import check_file, check_number
from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.tensor_headers import SUFFIX, header_of, shown
from harness.lib.weights import sha256_of_all
from harness.models.folder import model_folder
from harness.models.lora import Lora, adapter_file, merge, read_lora
from harness.models.part_tensors import base_shapes, misnamed, plain_name, shapes_of, tensors_of
from harness.models.weight_files import CHECKPOINTS, CONVERT, weight_files

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

PARTS = ("unet", "text_encoder")
ENCODERS = ("text_encoder", "text_encoder_2")
PARTIAL = "unet_partial"


def own_files(config: Config) -> dict[str, list[Path]]:
    """Return the weight files of each part that the config replaces, and of its LoRAs. Raises HarnessError."""
    files = {part: _part_files(part, config[part]) for part in PARTS if config.get(part) is not None}
    loras = _lora_files(config.get("lora"))
    return files | ({"lora": loras} if loras else {})


def _part_files(part: str, value: Any) -> list[Path]:
    path = Path(str(check_file(f"model.{part}", value))).expanduser().resolve()
    if path.is_file():
        return [_tensor_file(f"model.{part}", path, CHECKPOINTS)]
    files = weight_files(path, None) or weight_files(path / part, None) or _only_file(path)
    if not files:
        raise MissingResourceError(f"model.{part}: no safetensors weights of a {part} in {path}.",
                                   "Use a .safetensors file, or a folder in diffusers format.")
    return [_tensor_file(f"model.{part}", file, CHECKPOINTS) for file in files]


def _only_file(folder: Path) -> list[Path]:
    """Return the safetensors file of a folder that has one, by any name."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    return files if len(files) == 1 else []


def _lora_files(value: Any) -> list[Path]:
    values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    paths = [Path(str(check_file("model.lora", one) or "")).expanduser().resolve() for one in values]
    return [_tensor_file("model.lora", file, (SUFFIX,)) for path in paths for file in (_only_file(path) or [path])]


def _tensor_file(setting: str, path: Path, endings: tuple[str, ...]) -> Path:
    if not path.is_file():
        raise MissingResourceError(f"{setting}: no file {path}.")
    if path.suffix not in endings:
        raise InvalidValueError(f"{setting}: {path} is not a .safetensors file.",
                                f"Convert it: {CONVERT} {path} <new file>.safetensors"
                                if path.suffix in CHECKPOINTS else None)
    if path.suffix == SUFFIX:
        header_of(path, f"{setting}: {path}")
    return path


def check_own_parts(config: Config) -> None:
    """Raise HarnessError unless the config's own parts can be read and fit the model's; shapes wait for its weights."""
    check_number("model.lora_scale", config.get("lora_scale", 1.0), -10, 10)
    files, folder, partial = own_files(config), model_folder(config), is_partial(config)
    if folder is None or not folder.is_dir():
        return
    for part in (part for part in PARTS if part in files):
        _check_shapes(part, files[part], base_shapes(config, part) or {}, part == "unet" and partial)
    for file in files.get("lora", ()):
        read_lora(file, _bases(config, folder))


def is_partial(config: Config) -> bool:
    """Return whether the config's U-Net file holds some of the U-Net's tensors only, and the rest is the model's."""
    value = config.get(PARTIAL) or False
    if not isinstance(value, bool):
        raise InvalidValueError(f"model.{PARTIAL}={value!r}: expected true or false.")
    if value and config.get("unet") is None:
        raise InvalidValueError(f"model.{PARTIAL}=true needs a file.", "Set model.unet=<file>.")
    return value


def _check_shapes(part: str, files: list[Path], base: Shapes, partial: bool) -> None:
    shapes, label = shapes_of(files), f"model.{part}: {files[0]} is not a {part} of this model"
    other = misnamed(shapes)
    if other:
        raise InvalidValueError(f"{label}: {other}.")
    unknown, absent = shapes.keys() - base.keys(), base.keys() - shapes.keys()
    if absent and not partial:
        if part == "unet" and shapes and not unknown:
            raise InvalidValueError(f"model.unet: {files[0]} holds {len(shapes)} of the U-Net's {len(base)} tensors "
                                    f"({min(absent)} is missing).",
                                    f"To replace only those tensors of the model's U-Net, set model.{PARTIAL}=true.")
        raise InvalidValueError(f"{label}: {min(absent)} is missing ({len(absent)} such names).")
    if unknown or not shapes:
        raise InvalidValueError(f"{label}: {shown(min(unknown))} is unknown ({len(unknown)} such names)." if unknown
                                else f"{label}: it has no tensors.")
    for name, shape in shapes.items():
        if base[name] != shape:
            raise InvalidValueError(f"{label}: {name} has shape {shape}, but the model's has {base[name]}.")


def _bases(config: Config, folder: Path) -> dict[str, Shapes]:
    return {part: base_shapes(config, part) or {} for part in ("unet", *ENCODERS) if (folder / part).is_dir()}


def own_parts_identity(config: Config) -> dict[str, Any]:
    """Return what names the config's own parts: hashes of files, never paths; empty if there are none."""
    files = own_files(config)
    hashes: dict[str, Any] = {part: sha256_of_all(paths) for part, paths in files.items() if part != "lora"}
    if is_partial(config):
        hashes[PARTIAL] = True
    if "lora" in files:
        hashes["lora"] = [sha256_of_all([file, *filter(None, [adapter_file(file)])]) for file in files["lora"]]
        hashes["lora_scale"] = float(config.get("lora_scale", 1.0))
    return hashes


def fingerprint_with(base: str, identity: Mapping[str, Any]) -> str:
    """Return the hash of a model's weights with its custom parts; `base` if there are none."""
    text = base + "".join(f"\n{name} {identity[name]}" for name in sorted(identity))
    return hashlib.sha256(text.encode()).hexdigest() if identity else base


def put_own_parts(pipe: Any, config: Config) -> None:
    """Load the config's own parts into a pipeline on the CPU: whole parts first, then the LoRAs on top of them."""
    files, folder = own_files(config), model_folder(config)
    assert folder is not None  # the pipeline was loaded from it
    for part in (part for part in PARTS if part in files):
        _replace(getattr(pipe, part), files[part])
    for file in files.get("lora", ()):
        _merge_lora(pipe, read_lora(file, _bases(config, folder)), float(config.get("lora_scale", 1.0)))


def _replace(module: Any, files: list[Path]) -> None:
    tensors = tensors_of(files)
    plain = {name: plain_name(name) for name in module.state_dict() if not name.endswith("position_ids")}
    module.load_state_dict({name: tensors[key] for name, key in plain.items() if key in tensors}, strict=False)


def _merge_lora(pipe: Any, lora: Lora, scale: float) -> None:
    for part in {pair.part for pair in lora.pairs}:
        modules = {plain_name(name): module for name, module in getattr(pipe, part).named_modules()}
        merge(lora, part, modules, scale)
