"""What methods share that edit weights: which models they fit, tensors overwritten or added to, exact undo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import IncompatibleError
from harness.lib.targets import locate
from harness.method import Artifact, Export
from harness.models.families import FAMILIES as KNOWN
from harness.models.families import family_name

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

# Names of families: with an unconditional row; with a U-Net on latents; with one text encoder beside that.
GUIDED = tuple(name for name, family in KNOWN.items() if family.has_negative_branch)
UNETS = tuple(name for name, family in KNOWN.items() if family.has_latent_unet)
FAMILIES = tuple(name for name in UNETS if "text_encoder_2" not in KNOWN[name].parts)


def check_family(name: str, model_config: Mapping[str, Any], needs: str, fitting: tuple[str, ...] = FAMILIES) -> None:
    """Raise IncompatibleError unless the model is of a `fitting` family; `needs` ends the sentence "method x needs"."""
    family = family_name(model_config)
    if family not in fitting:
        known = KNOWN.get(family)
        reason = f": {known.unlike}" if known and known.unlike else ""
        raise IncompatibleError(f"method {name} is written for {', '.join(fitting)} and needs {needs}; model "
                                f"{model_config.get('name')} is {family}{reason}.")


def check_guided(name: str, guidance_scale: float) -> None:
    """Raise IncompatibleError if a method's own images would be made without classifier-free guidance."""
    if guidance_scale < 1:
        raise IncompatibleError(f"method {name} trains on images generated with classifier-free guidance, which is off "
                                f"at its guidance_scale={guidance_scale:g}.",
                                "Set the method's own guidance_scale, from 1 to 100.")


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], whole: bool = True) -> None:
    """Raise IncompatibleError unless an artifact's tensors have the expected names (all, if `whole`) and shapes."""
    unknown = next((name for name in tensors if name not in expected), None)
    if unknown:
        raise IncompatibleError("the artifact does not fit this method and model: it changes "
                                f"{unknown}, which does not exist here.")
    for name, value in tensors.items():
        if value.shape != tuple(expected[name]):
            raise IncompatibleError(f"the artifact does not fit this model: {name} has shape {tuple(value.shape)}, not "
                                    f"{tuple(expected[name])}.")
    absent = next((name for name in expected if whole and name not in tensors), None)
    if absent:
        raise IncompatibleError(f"the artifact does not fit this method and model: it has no {absent}.")


@contextmanager
def tensors_replaced(module: Any, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Overwrite parameters and buffers by name; leaving restores every byte, also after an exception."""
    import torch

    values = dict(module.named_parameters()) | dict(module.named_buffers())
    kept = {name: values[name].detach().to("cpu", copy=True) for name in tensors}
    try:
        with torch.no_grad():
            for name, value in tensors.items():
                values[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                values[name].copy_(value)


def _moved(value: Tensor, delta: Tensor, strength: float) -> Tensor:
    start = value.detach().float()
    return start + strength * delta.to(start.device, start.dtype)


@contextmanager
def deltas_added(module: Any, deltas: Mapping[str, Tensor], strength: float = 1.0) -> Iterator[None]:
    """Add `strength` times each delta, in float32, to the parameter of its name; leaving restores every byte."""
    parameters = dict(module.named_parameters())
    check_fit(deltas, {name: value.shape for name, value in parameters.items()}, whole=False)
    edited = {name: _moved(parameters[name], delta, strength) for name, delta in deltas.items()}
    with tensors_replaced(module, edited):
        yield


def unet_export(model: LoadedModel, artifact: Artifact, deltas: Mapping[str, Tensor]) -> Export:
    """Return the denoiser's own parameters plus `deltas`, by the same names: the format of a release.

    Raises IncompatibleError if the model was trained with other edits of its denoiser in place.
    """
    before = [path for path in artifact.meta.get("upstream_classes", ()) if locate(path, path).edits_denoiser]
    if before:
        raise IncompatibleError(f"this artifact was trained on weights that {before[0]} had edited; without them "
                                "it is useless, so it is not exported.")
    parameters = dict(model.denoiser.named_parameters())
    edited = {name: (parameters[name].detach().float().cpu() + delta).to(parameters[name].dtype)
              for name, delta in deltas.items()}  # fmt: skip
    name = f"{artifact.meta['recipe']['kind']}.safetensors"
    return Export({name: edited}, f'pipe.unet.load_state_dict(load_file("{name}"), strict=False)')
