"""Whether the weights in a model's folders are what their classes expect: by headers, and finite where cheap.

A tensor that a file lacks would be filled with random numbers by the library that loads it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, InvalidValueError
from harness.lib.tensor_headers import (
    FileFault,
    check_computable,
    os_fault,
    read_header,
    shown,
)
from harness.lib.tensor_values import not_finite
from harness.lib.weights import PACKAGE_PREFIX
from harness.models.families import family_of
from harness.models.folder import folder_problem, is_folder_source, model_folder, used_parts
from harness.models.index import INDEX
from harness.models.part_layouts import Misfit, Part, misfits
from harness.models.stages import stages_of
from harness.models.weight_files import part_weights, read_json

Config = Mapping[str, Any]

PREFETCH = "python -m harness prefetch with the same settings finds and replaces it."


def check_weights(config: Config) -> None:
    """Raise HarnessError, in one line, for weights that are here and cannot be what the pipelines' classes want.

    What is absent of a hub model is left to `missing`. A package's own weights are compared when they are loaded.
    """
    for one in (config, *stages_of(config)):
        folder = model_folder(one)
        if folder is not None and _is_there(folder):
            _check_folder(one, folder)


def _is_there(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError as error:
        raise os_fault(error).about(error.filename).as_error() from None


def _check_folder(config: Config, folder: Path) -> None:
    source, variant = str(config["source"]), config.get("variant")
    without = tuple(config.get("without") or ())
    problem = folder_problem(folder, variant, without)
    try:
        if problem is not None:
            if problem.absent and not is_folder_source(source):
                return
            hint = problem.remedy if is_folder_source(source) else PREFETCH
            raise FileFault(problem.reason, hint, problem.absent)
        shipped = source.startswith(PACKAGE_PREFIX) and "torch" not in sys.modules
        for part, files in _files(folder, variant, without).items():
            for file in files:
                _check_values(f"{part}/{file.name}", file, look=not shipped)
        if not shipped:
            _check_classes(folder, variant, without, family_of(config).modules)
    except FileFault as fault:
        raise _error(config, folder, fault) from None


def _error(config: Config, folder: Path, fault: FileFault) -> HarnessError:
    hint = fault.remedy or "Set model.source to a folder in diffusers format, with safetensors weights."
    said = FileFault(f"model {config.get('name')} in {folder}: {fault.reason}", hint, fault.absent)
    return said.as_error()


def _files(folder: Path, variant: str | None, without: tuple[str, ...]) -> dict[str, list[Path]]:
    return {part: part_weights(folder / part, part, variant) for part in sorted(used_parts(folder, without))
            if (folder / part / "config.json").is_file()}


def _check_values(said: str, file: Path, look: bool) -> None:
    """Raise FileFault for tensors of a type that no model computes with, and for values that are not finite."""
    try:
        check_computable(read_header(file))
    except FileFault as fault:
        raise fault.about(said) from None
    bad = not_finite(file) if look else None
    if bad is not None:
        raise FileFault(f"{said} is broken: {shown(bad)} has non-finite values")


def _check_classes(folder: Path, variant: str | None, without: tuple[str, ...], modules: tuple[str, ...]) -> None:
    files = _files(folder, variant, without)
    named, parts = used_parts(folder, without), {}
    for part, part_files in files.items():
        config = folder / part / "config.json"
        if "quantization_config" in read_settings(config):
            raise FileFault(f"{part}/config.json says that the part is quantised; quantised weights are not supported",
                            "Use the float16, bfloat16 or float32 files.")
        shapes = {name: shape for file in part_files for name, shape in read_header(file).shapes.items()}
        parts[part] = Part(*named[part], config.read_text(encoding="utf-8"), shapes, len(part_files) > 1, modules)
    parts |= {part: Part(*kind, "", {}, modules=modules) for part, kind in named.items() if part not in parts}
    for part, misfit in zip(parts, misfits(list(parts.values())), strict=True):
        if not misfit.fits:
            part_files = files.get(part, [])
            raise _misfit_fault(part, part_files[0] if len(part_files) == 1 else folder / part, parts[part], misfit)


def read_settings(config: Path) -> dict[str, Any]:
    """Return the settings of a config.json. Raises FileFault that names it."""
    try:
        return read_json(config)
    except FileFault as fault:
        raise fault.about(f"{config.parent.name}/{config.name}") from None


def network_problem(folder: Path, source: str, library: str = "transformers", kind: str | None = None) -> str | None:
    """Return why the network in a folder cannot be loaded whole, or None; `kind`: its class, else as its config says.

    What a `source` of an installed package holds is compared once torch is here.
    """
    try:
        files = part_weights(folder, folder.name, None)
        for file in files:
            _check_values(f"{folder.name}/{file.name}", file, look=False)
        if source.startswith(PACKAGE_PREFIX) and "torch" not in sys.modules:
            return None
        listed = read_settings(folder / "config.json").get("architectures")
        text = (folder / "config.json").read_text(encoding="utf-8")
        named = kind or (listed[0] if isinstance(listed, list) and listed else None)
        if not isinstance(named, str):
            return None
        shapes = {name: shape for file in files for name, shape in read_header(file).shapes.items()}
        made = Part(library, named, text, shapes, len(files) > 1)
        (misfit,) = misfits([made])
        if misfit.fits or not misfit.known:
            return None
        fault = _misfit_fault(folder.name, files[0] if len(files) == 1 else folder, made, misfit)
    except FileFault as found:
        fault = found
    except OSError as error:
        fault = os_fault(error).about(error.filename)
    return f"in {folder.parent}, {fault.reason}. {fault.remedy}".rstrip()


def _misfit_fault(part: str, file: Path, made: Part, misfit: Misfit) -> FileFault:
    said = f"{part}/{file.name}" if file.name != part else part
    remedy = f"Download {part}/ with its config.json again."
    if not misfit.known:
        return FileFault(f"{INDEX} says that {part} is a {shown(made.kind)} of {shown(made.library)}, which is not "
                         "a known class", f"Download {INDEX} again.")
    if misfit.error:
        return FileFault(f"{part}/config.json is not valid for {made.kind} ({misfit.error})", remedy)
    if misfit.lacking:
        count = f"{len(misfit.lacking)} of {misfit.wanted} names"
        none = len(misfit.lacking) == misfit.wanted and made.shapes
        instead = f" of a {made.kind}, but has {shown(min(made.shapes))}" if none else ""
        return FileFault(f"{said} lacks {shown(misfit.lacking[0])} ({count}){instead}", remedy)
    name, has, wants = misfit.wrong[0]
    return FileFault(f"{said} does not fit its config.json: {shown(name)} has shape {has}, expected {wants} "
                     f"({len(misfit.wrong)} such names)", remedy)  # fmt: skip


def check_loaded(label: str, pipe: Any) -> None:
    """Raise InvalidValueError for a weight in memory that is not finite, also one that a conversion made so."""
    import torch

    for part, module in pipe.components.items():
        for name, value in module.named_parameters() if isinstance(module, torch.nn.Module) else ():
            if value.is_floating_point() and value.numel() and not torch.stack(value.aminmax()).isfinite().all():
                raise InvalidValueError(f"{label}: {part}: {name} has non-finite values in {value.dtype}.",
                                        "Download the part again, or set model.dtype=float32 if it is complete.")
