"""A U-Net, a text encoder or LoRAs of the user's own on top of a model: checked by their headers before anything loads.

Only safetensors files are read. Their names and shapes must be those of the model's own part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints import finite, safetensors_header
from harness.errors import InvalidValueError, MissingResourceError
from harness.evaluators.weights import sha256_of_all
from harness.lora import Lora, merge, read_lora
from harness.model_files import is_whole_safetensors, model_folder, weight_files
from harness.settings import check_file, check_number

if TYPE_CHECKING:
    from torch import Tensor

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

PARTS = ("unet", "text_encoder")
ENCODERS = ("text_encoder", "text_encoder_2")
_PREFIX = "text_model."  # in files of CLIP's text encoder; not in the modules of newer transformers


def own_files(config: Config) -> dict[str, list[Path]]:
    """Return the weight files of each part that the config replaces, and of its LoRAs. Raises HarnessError."""
    found = {part: _part_files(part, config[part]) for part in PARTS if config.get(part) is not None}
    loras = _lora_files(config.get("lora"))
    return found | ({"lora": loras} if loras else {})


def _part_files(part: str, value: Any) -> list[Path]:
    path = Path(str(check_file(f"model.{part}", value))).expanduser().resolve()
    if path.is_file():
        return [_safetensors(f"model.{part}", path)]
    files = weight_files(path, None) or weight_files(path / part, None)
    if not files:
        raise MissingResourceError(f"model.{part}: there are no safetensors weights of a {part} in {path}.",
                                   "Give a .safetensors file, or a folder in diffusers format.")
    return [_safetensors(f"model.{part}", file) for file in files]


def _lora_files(value: Any) -> list[Path]:
    values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    paths = [Path(str(check_file("model.lora", one) or "")).expanduser().resolve() for one in values]
    return [_safetensors("model.lora", path) for path in paths]


def _safetensors(setting: str, path: Path) -> Path:
    if not path.is_file():
        raise MissingResourceError(f"{setting}: there is no file {path}.")
    if path.suffix != ".safetensors":
        raise InvalidValueError(f"{setting}: {path} is no .safetensors file, and nothing else is read.")
    if not is_whole_safetensors(path):
        raise InvalidValueError(f"{setting}: {path} is cut short, or no safetensors file.")
    return path


def check_own_parts(config: Config) -> None:
    """Raise HarnessError unless the config's own parts can be read and fit the model's; shapes wait for its weights."""
    check_number("model.lora_scale", config.get("lora_scale", 1.0), -10, 10)
    files, folder = own_files(config), model_folder(config)
    if folder is None or not folder.is_dir():
        return
    for part in (part for part in PARTS if part in files):
        _check_shapes(part, files[part], shapes_of(files[part]), _base_shapes(config, folder, part))
    for file in files.get("lora", ()):
        read_lora(file, _bases(config, folder))


def _check_shapes(part: str, files: list[Path], found: Shapes, base: Shapes) -> None:
    for names, said in ((base.keys() - found.keys(), "is not in it"), (found.keys() - base.keys(), "is unknown")):
        if names:
            raise InvalidValueError(f"model.{part}: {files[0]} is no {part} of this model: {min(names)} {said} "
                                    f"({len(names)} such names).")
    for name, shape in base.items():
        if found[name] != shape:
            raise InvalidValueError(f"model.{part}: {files[0]} is no {part} of this model: {name} has shape "
                                    f"{found[name]}, and the model's has {shape}.")


def shapes_of(files: list[Path]) -> Shapes:
    """Return the shape of every tensor in safetensors files, from their headers, by plain names."""
    entries = {name: entry for file in files for name, entry in safetensors_header(file).items()}
    return {plain_name(name): tuple(entry["shape"]) for name, entry in entries.items()
            if name != "__metadata__" and not name.endswith("position_ids")}


def plain_name(name: str) -> str:
    """Return a tensor's or module's name as every version of transformers can find it."""
    return name.removeprefix(_PREFIX)


def _base_shapes(config: Config, folder: Path, part: str) -> Shapes:
    return shapes_of(weight_files(folder / part, config.get("variant")))


def _bases(config: Config, folder: Path) -> dict[str, Shapes]:
    return {part: _base_shapes(config, folder, part) for part in ("unet", *ENCODERS) if (folder / part).is_dir()}


def own_parts_identity(config: Config) -> dict[str, Any]:
    """Return what names the config's own parts: hashes of files, never paths; empty where there are none."""
    files = own_files(config)
    hashes: dict[str, Any] = {part: sha256_of_all(paths) for part, paths in files.items() if part != "lora"}
    if "lora" in files:
        hashes["lora"] = [sha256_of_all([file]) for file in files["lora"]]
        hashes["lora_scale"] = float(config.get("lora_scale", 1.0))
    return hashes


def fingerprint_with(base: str, identity: Mapping[str, Any]) -> str:
    """Return the hash of a model's weights together with parts of one's own; `base` where there are none."""
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
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for file in files:
        read = load_file(file)
        finite(file, read)
        tensors |= {plain_name(name): value for name, value in read.items() if not name.endswith("position_ids")}
    own = {name for name in module.state_dict() if not name.endswith("position_ids")}
    module.load_state_dict({name: tensors[plain_name(name)] for name in own}, strict=False)


def _merge_lora(pipe: Any, lora: Lora, scale: float) -> None:
    for part in {pair.part for pair in lora.pairs}:
        modules = {plain_name(name): module for name, module in getattr(pipe, part).named_modules()}
        merge(lora, part, modules, scale)
