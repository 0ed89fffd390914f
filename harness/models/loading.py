"""A text-to-image model: what is missing of it, the hash of its weights, and loading it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, IncompatibleError, MissingResourceError, unknown_name
from harness.lib.hub_cache import has_token, is_offline
from harness.lib.weights import PACKAGE_PREFIX
from harness.models.checks import check_known
from harness.models.choice import OWN_PARTS, settled
from harness.models.families import Family, family_name, family_of, is_plugged, plugin_of
from harness.models.folder import folder_fingerprint, folder_problem, has_variant, is_folder_source, model_folder
from harness.models.loaded import SCHEDULERS, LoadedModel, make_scheduler
from harness.models.own_parts import PARTIAL, fingerprint_with, own_parts_identity, put_own_parts
from harness.models.stages import stages_of
from harness.models.weight_checks import check_loaded

if TYPE_CHECKING:
    import torch


Config = Mapping[str, Any]

DTYPES = ("float32", "float16", "bfloat16")


def missing(config: Config) -> str | None:
    """Return None when the model can be loaded, else one line: what is missing and how to get it."""
    if is_plugged(config):
        return plugin_of(config).missing(config)
    config = settled(config)
    problems = (missing_pipeline(one) for one in (config, *stages_of(config)))
    return next((problem for problem in problems if problem), None)


def missing_pipeline(config: Config) -> str | None:
    """Return what `missing` does, of one pipeline of a model."""
    source, name = str(config["source"]), config.get("name", "model")
    folder, variant = model_folder(config), config.get("variant")
    if folder is not None and _exists(folder):
        problem = folder_problem(folder, variant, config.get("without") or ())
        if problem is None:
            return None
        place = str(folder) if is_folder_source(source) else f"the cached {source}"
        remedy = problem.remedy if is_folder_source(source) else None
        return f"weights of {name} are incomplete: in {place}, {problem.reason}. {remedy or _how_to_get(config)}"
    if is_folder_source(source):
        return f"weights of {name} are missing: no folder {folder}. {_how_to_get(config)}"
    if config.get("download") and not is_offline() and (has_token() or not config.get("gated")):
        return None
    offline = " and HF_HUB_OFFLINE forbids downloading them" if is_offline() else ""
    return f"weights of {name} ({source}) are not on this machine{offline}. {_how_to_get(config)}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # what keeps it from being looked at is said where it is read


def _how_to_get(config: Config) -> str:
    source, size = str(config["source"]), config.get("download_gb")
    if source.startswith(PACKAGE_PREFIX):
        return str(config.get("how_to_get") or "Reinstall the package that contains them.")
    if is_folder_source(source):
        return "Set model.source to a folder in diffusers format, with safetensors weights."
    gated = ""
    if config.get("gated"):
        token = "" if has_token() else " and set HF_TOKEN"
        gated = f"Accept its licence at https://huggingface.co/{source}{token}, then: "
    revision = f" --revision {config['revision']}" if config.get("revision") else ""
    return (f"{gated or 'Get them: '}python -m harness prefetch with the same settings"
            f"{f' ({size} GB)' if size else ''}, or hf download {source}{revision} {_download_filter(config)}, "
            "or set model.source to a folder that has them.")


def _download_filter(config: Config) -> str:
    wanted = f"*.{config['variant']}.safetensors" if config.get("variant") else "*/*.safetensors"
    return f"--include '*.json' '*.txt' '{wanted}'"


def weights_fingerprint(config: Config) -> str:
    """Return the hash that names the weights, including custom parts.

    Of a folder it is that of its files; of a hub model that of the id and commit which this machine has, or of what
    the config asks for where it has none. Further stages count.
    """
    if is_plugged(config):
        return plugin_of(config).fingerprint(config)
    config = settled(config)
    base, later = _base_fingerprint(config), [_base_fingerprint(stage) for stage in stages_of(config)]
    if later:
        base = hashlib.sha256("\n".join((base, *later)).encode()).hexdigest()
    return fingerprint_with(base, own_parts_identity(config))


def _base_fingerprint(config: Config) -> str:
    source, variant = str(config["source"]), config.get("variant")
    if not is_folder_source(source):
        text = f"hub:{source}@{config.get('revision') or 'main'}:{variant}"
        return hashlib.sha256(text.encode()).hexdigest()
    folder = model_folder(config)
    if folder is None or not folder.is_dir():
        return hashlib.sha256(f"absent:{source}".encode()).hexdigest()
    return folder_fingerprint(folder, variant, config.get("without") or ())


def weights_origin(config: Config) -> dict[str, Any]:
    """Return what provenance says of the weights: the hub id and commit, or folder, really loaded, and own parts."""
    if is_plugged(config):
        return {"loader": config["loader"], "weights": weights_fingerprint(config)}
    config = settled(config)
    custom = {part: config[part] for part in (*OWN_PARTS, PARTIAL) if config.get(part)}
    return {
        "source": config["source"],
        "revision": config.get("revision"),
        "variant": config.get("variant"),
        "own_parts": custom,
        "own_parts_sha256": own_parts_identity(config),
        "stages": [{key: stage.get(key) for key in ("source", "revision", "variant")} for stage in stages_of(config)],
    }


def load_model(config: Config, device: str = "cpu") -> LoadedModel:
    """Load a pipeline from safetensors files, without its safety checker. Raises MissingResourceError in one line.

    Never downloads: what fetches weights is `harness prefetch`, once and before any worker starts.
    """
    config = settled(config)
    check_known(config)
    problem = placement_problem(config, device)
    if problem:
        raise problem
    absent = missing({**config, "download": False})
    if absent:
        raise MissingResourceError(absent)
    import torch

    if is_plugged(config):
        return _plugged(config, device)
    dtype, family = getattr(torch, config.get("dtype") or "float32"), family_of(config)
    pipe = _from_pretrained(config, dtype, family.pipeline)
    later = tuple(_from_pretrained(stage, dtype, str(stage["pipeline"])) for stage in stages_of(config))
    put_own_parts(pipe, config)
    _configure(pipe, config, device)
    for pipeline in later:
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(device)
    for loaded in (pipe, *later):
        check_loaded(f"model {config.get('name')}", loaded)
    return LoadedModel(
        pipe=pipe,
        config=config,
        family=family_name(config),
        prediction_type=family.prediction or str(config.get("prediction_type")
                                                 or pipe.scheduler.config.prediction_type),
        device=torch.device(device),
        dtype=dtype,
        fingerprint=weights_fingerprint(config),
        kin=family,
        later=later,
    )


def _plugged(config: Config, device: str) -> LoadedModel:
    import torch

    plugin = plugin_of(config)
    return LoadedModel(
        pipe=plugin.open(config, device),
        config=config,
        family=str(config.get("family")),
        prediction_type=plugin.prediction or "epsilon",
        device=torch.device(device),
        dtype=getattr(torch, config.get("dtype") or "float32"),
        fingerprint=plugin.fingerprint(config),
        kin=plugin,
    )


def placement_problem(config: Config, device: str) -> HarnessError | None:
    """Return the error for a dtype or scheduler that does not exist, or for float16 on a CPU."""
    dtype = config.get("dtype") or "float32"
    if dtype not in DTYPES:
        return unknown_name("model.dtype", str(dtype), DTYPES)
    scheduler = config.get("scheduler")
    if scheduler is not None and scheduler not in SCHEDULERS:
        return unknown_name("model.scheduler", str(scheduler), SCHEDULERS)
    if device == "cpu" and dtype == "float16":
        return IncompatibleError(f"model {config.get('name')} is set to float16, which is too slow on a CPU.",
                                 "Set model.dtype=float32.")
    return None


def _from_pretrained(config: Config, dtype: torch.dtype, pipeline: str) -> Any:
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    folder = model_folder(config)
    assert folder is not None  # what is missing has been said before
    family, variant = family_of(config), config.get("variant")
    try:
        return family.load(pipeline, folder, dtype, variant if has_variant(folder, variant) else None,
                           tuple(config.get("without") or ()))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MissingResourceError(f"model {config.get('name')} cannot be loaded from {folder}: {reason}.",
                                   _how_to_get(config)) from error


def _configure(pipe: Any, config: Config, device: str) -> None:
    """Place the pipeline and switch on what the config asks for: channels_last and compile pay on GPUs."""
    import torch

    family = family_of(config)
    denoiser, vae = getattr(pipe, family.part), getattr(pipe, "vae", None)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    if vae is not None:
        _configure_vae(vae, config, family)
    if config.get("channels_last"):
        denoiser.to(memory_format=torch.channels_last)
    if config.get("compile"):
        denoiser.forward = torch.compile(denoiser.forward, dynamic=False)
    if config.get("scheduler"):
        pipe.scheduler = make_scheduler(pipe.scheduler, config["scheduler"])
        family.fit_scheduler(pipe.scheduler)
    if config.get("prediction_type"):
        pipe.scheduler.register_to_config(prediction_type=config["prediction_type"])


def _configure_vae(vae: Any, config: Config, family: Family) -> None:
    import torch

    if config.get("vae_dtype"):
        vae.to(getattr(torch, config["vae_dtype"]))
    elif family.upcasts_vae and vae.dtype == torch.float16 and vae.config.force_upcast:
        vae.to(torch.float32)  # its activations overflow in float16; the stock pipeline decodes so, too
    if config.get("vae_slicing"):
        vae.enable_slicing()
    if config.get("channels_last"):
        vae.to(memory_format=torch.channels_last)
