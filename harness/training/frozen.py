"""Parts of a model in float32, with gradients to their inputs only, for as long as a training runs through them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel


@contextmanager
def frozen_denoiser(model: LoadedModel) -> Iterator[None]:
    """Hold the denoiser in float32 with gradients to its inputs only; give it back as it was."""
    with _frozen(model.denoiser):
        yield


@contextmanager
def frozen_text_encoder(model: LoadedModel) -> Iterator[None]:
    """Hold the text encoder in float32 with gradients to its inputs only; give it back as it was."""
    try:
        with _frozen(model.pipe.text_encoder):
            yield
    finally:
        model.forget_texts()


@contextmanager
def _frozen(module: Any) -> Iterator[None]:
    """Half precision survives the way to float32 and back to the bit."""
    dtype = module.dtype
    wanted = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    try:
        module.requires_grad_(False)
        module.float()
        yield
    finally:
        module.to(dtype)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wanted[name])
