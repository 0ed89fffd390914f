"""A user's diffusers pipeline as the engine knows models: its family, the config of its model, its weights' name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import IncompatibleError
from harness.lib.paths import conf_dir
from harness.lib.reading import read_yaml
from harness.models.choice import settled
from harness.models.families import FAMILIES, MIRRORS, Family
from harness.models.folder import is_folder_source, model_folder
from harness.models.loaded import LoadedModel
from harness.models.part_tensors import plain_name, tensors_of
from harness.models.weight_files import weight_files
from harness.models.weights import weights_fingerprint
from harness.sampling.plain_calls import APPLIED, scheduler_name

if TYPE_CHECKING:
    import torch

Config = Mapping[str, Any]

UNNAMED = "local"  # the config of any other pipeline


def family_of_pipeline(pipe: Any) -> str:
    """Return the family that a pipeline is of. Raises IncompatibleError for one that no method can be applied to."""
    import diffusers

    name = type(pipe).__name__
    if applied := getattr(type(pipe), APPLIED, None):
        raise IncompatibleError(f"method {applied} is already applied to this pipeline.",
                                "Remove it first (pipe.applied_methods.remove()), or apply several as one list.")
    kinds = {family: [getattr(diffusers, kind) for kind in (known.pipeline, *known.siblings)]
             for family, known in FAMILIES.items() if known.plain_calls}
    fitting = [family for family, of_family in kinds.items() for kind in of_family
               if isinstance(pipe, kind) and type(pipe).__call__ is kind.__call__]
    if not fitting:
        listed = ", ".join(dict.fromkeys(kind.__name__ for of_family in kinds.values() for kind in of_family))
        raise IncompatibleError(f"methods cannot be applied to a {name}.", f"Supported are {listed}.")
    width = getattr(getattr(getattr(pipe, "text_encoder", None), "config", None), "hidden_size", None)
    return next((family for family in fitting if FAMILIES[family].text_width == width), fitting[0])


def source_of(pipe: Any) -> str | None:
    """Return where a pipeline was loaded from: a folder, or the id of a repository; None if nothing says so."""
    name = pipe.config.get("_name_or_path")
    return str(name) if name else None


def model_name_of(pipe: Any) -> str:
    """Return the model of conf/model/ that a pipeline was loaded from, `local` if it is none of them."""
    source = source_of(pipe)
    if source is None:
        return UNNAMED
    return next((name for name, of_model in _sources() if _is_same(source, of_model)), UNNAMED)


def _sources() -> Iterator[tuple[str, str]]:
    """Yield the name of every model of conf/model/ with each place that its files come from."""
    for file in sorted((conf_dir() / "model").glob("*.yaml")):
        config = read_yaml(file) or {}
        places = [config.get("source"), *(config.get("fallbacks") or ())]
        for place in places:
            place = place.get("source") if isinstance(place, Mapping) else place
            if isinstance(place, str) and "${" not in place:
                yield file.stem, place


def _is_same(source: str, of_model: str) -> bool:
    if is_folder_source(of_model):
        return Path(source).is_dir() and model_folder({"source": of_model}) == Path(source).resolve()
    repository = _repository(source)
    return MIRRORS.get(repository, repository) == MIRRORS.get(of_model, of_model)


def _repository(source: str) -> str:
    """Return the id of a repository, also of a snapshot of it in the hub's cache."""
    cached = next((part for part in Path(source).parts if part.startswith("models--")), None)
    return "/".join(cached.split("--")[1:]) if cached else source


def model_of(pipe: Any, config: Config, by_weights: bool) -> LoadedModel:
    """Return a pipeline as a model, with the model config of its name; the pipeline's own state goes before.

    `by_weights`: compare its weights with its files, since an artifact is bound to them. Raises HarnessError.
    """
    name = family_of_pipeline(pipe)
    _check_parts(pipe, FAMILIES[name])
    placed = _placed(pipe, config, name)
    return LoadedModel(
        pipe=pipe, config=placed, family=name, prediction_type=_prediction_type(pipe, FAMILIES[name]),
        device=pipe._execution_device, dtype=_dtype(pipe, FAMILIES[name]),
        fingerprint=fingerprint_of(pipe, placed) if by_weights else "", kin=FAMILIES[name],
    )  # fmt: skip


def draws_of_text(pipe: Any) -> bool:
    """Return whether a pipeline makes images of text alone, which a training on it does."""
    return type(pipe).__name__ in [family.pipeline for family in FAMILIES.values()]


def _check_parts(pipe: Any, family: Family) -> None:
    absent = next((part for part in family.parts if getattr(pipe, part, None) is None), None)
    if absent:
        raise IncompatibleError(f"the {type(pipe).__name__} has no {absent}, which methods need.",
                                "Load the pipeline with all of its parts.")
    vae, channels = getattr(pipe, "vae", None), getattr(pipe, family.part).config.in_channels
    if vae is not None and not draws_of_text(pipe) and channels == 2 * vae.config.latent_channels + 1:
        raise IncompatibleError("the pipeline's denoiser reads a mask beside the latents, which methods do not know.",
                                "Use the weights of a text-to-image model.")
    if any(value.is_meta for value in getattr(pipe, family.part).parameters()):
        raise IncompatibleError("the pipeline's weights are offloaded layer by layer (sequential CPU offload), where "
                                "methods cannot reach them.", "Use pipe.enable_model_cpu_offload().")


def _prediction_type(pipe: Any, family: Family) -> str:
    return family.prediction or str(pipe.scheduler.config.get("prediction_type", "epsilon"))


def _dtype(pipe: Any, family: Family) -> torch.dtype:
    dtype: torch.dtype = next(getattr(pipe, family.part).parameters()).dtype
    return dtype


def _placed(pipe: Any, config: Config, family: str) -> Config:
    """Return a model's config as a run would have it that samples like the pipeline."""
    known, dtype = FAMILIES[family], _dtype(pipe, FAMILIES[family])
    denoiser, vae = getattr(pipe, known.part), getattr(pipe, "vae", None)
    state: dict[str, Any] = {"family": family, "dtype": str(dtype).removeprefix("torch."),
                             "scheduler": _changed_scheduler(pipe), "prediction_type": None}  # fmt: skip
    if vae is not None:
        state["vae_dtype"] = None if vae.dtype == dtype else str(vae.dtype).removeprefix("torch.")
    if config.get("size") is None:
        state["size"] = _side(pipe, known)
    if config.get("source") is None:
        state["source"] = _folder(source_of(pipe))
    if not known.has_negative_branch or denoiser.config.get("time_cond_proj_dim") is not None:
        state |= {"negative_branch": False, "one_row_because": Family.one_row_because}
    placed = {**config, **state}
    return settled(placed) if placed["source"] else placed


def _folder(source: str | None) -> str | None:
    return source if source and Path(source).is_dir() else None


def _side(pipe: Any, family: Family) -> int:
    side = getattr(pipe, "default_sample_size", None) or getattr(pipe, family.part).config.sample_size
    side = side[0] if isinstance(side, (list, tuple)) else side
    return int(side * getattr(pipe, "vae_scale_factor", 1))


def _changed_scheduler(pipe: Any) -> str | None:
    """Return the name of a pipeline's scheduler; None where it is the one that its files name."""
    source, kind = _folder(source_of(pipe)), type(pipe.scheduler).__name__
    if source is not None:
        own = type(pipe.scheduler).load_config(source, subfolder="scheduler", local_files_only=True)
        if own.get("_class_name") == kind:
            return None
    return scheduler_name(pipe.scheduler)


def fingerprint_of(pipe: Any, config: Config) -> str:
    """Return what names a pipeline's weights: as in a run if they are those of its files, else a hash of them all."""
    import torch

    folder = model_folder(config) if config.get("source") else None
    if folder is not None and folder.is_dir() and _as_stored(pipe, folder, config.get("variant")):
        return weights_fingerprint(config)
    digest = hashlib.sha256()
    for name, module in sorted(pipe.components.items()):
        for key, value in sorted(module.state_dict().items()) if isinstance(module, torch.nn.Module) else ():
            digest.update(f"{name}.{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"memory:{digest.hexdigest()}"


def _as_stored(pipe: Any, folder: Path, variant: str | None) -> bool:
    """Return whether the denoiser and the text encoders hold what the files say, in the pipeline's precision."""
    import torch

    parts = [name for name, module in pipe.components.items()
             if isinstance(module, torch.nn.Module) and name.startswith(("unet", "transformer", "text_encoder"))]
    return all(_holds(getattr(pipe, part), weight_files(folder / part, variant)) for part in parts)


def _holds(module: Any, files: list[Path]) -> bool:
    import torch

    loaded = {plain_name(name): value for name, value in module.named_parameters()}
    known = 0
    for file in files:
        stored = {name: value for name, value in tensors_of([file]).items() if name in loaded}
        known += len(stored)
        if not all(torch.equal(value.to(loaded[name].dtype), loaded[name].cpu()) for name, value in stored.items()):
            return False
    return known > 0


def command_to_train(config: Config, names: Sequence[str]) -> str | None:
    """Return the command whose run trains methods for a model; None where no command knows its files."""
    methods = names[0] if len(names) == 1 else f"'[{','.join(names)}]'"
    if config.get("name") != UNNAMED:
        return f"python -m harness method={methods} model={config['name']}"
    return f"python -m harness method={methods} model=local model.path={config['source']}" if config["source"] else None


