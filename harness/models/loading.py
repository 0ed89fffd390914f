"""Loading a text-to-image model: where its parts are placed, in which precision, with which scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, IncompatibleError, MissingResourceError, unknown_name
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.families import Family, family_name, family_of, is_plugged, plugin_of
from harness.models.folder import has_variant, model_folder
from harness.models.loaded import SCHEDULERS, LoadedModel, make_scheduler
from harness.models.own_parts import put_own_parts
from harness.models.stages import stages_of
from harness.models.weight_checks import check_loaded
from harness.models.weights import how_to_get, missing, weights_fingerprint

if TYPE_CHECKING:
    import torch


Config = Mapping[str, Any]

DTYPES = ("float32", "float16", "bfloat16")


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
                                   how_to_get(config)) from error


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
