"""What methods share that edit weights: which models they fit, tensors overwritten or added to, exact undo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import IncompatibleError

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES = ("sd1", "sd2")
UNETS = ("sd1", "sd2", "sdxl")
_FLOW = "its transformer has no such parts and predicts a velocity on straight paths (flow matching)"
_WHY = {"sd3": _FLOW, "flux": _FLOW, "sdxl": "it has two text encoders and another U-Net",
        "if": "it draws pixels in stages from T5 texts"}


def check_family(name: str, model_config: Mapping[str, Any], needs: str, families: tuple[str, ...] = FAMILIES) -> None:
    """Raise IncompatibleError unless the model is of one of `families`; `needs` ends the sentence "method x needs"."""
    family = model_config.get("family", "sd1")
    if family not in families:
        reason = f": {_WHY[family]}" if family in _WHY else ""
        raise IncompatibleError(f"method {name} is written for {', '.join(families)} and needs {needs}; model "
                                f"{model_config.get('name')} is {family}{reason}.")


@contextmanager
def tensors_replaced(module: Any, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Overwrite parameters and buffers by name; leaving restores every byte, also after an exception."""
    import torch

    own = dict(module.named_parameters()) | dict(module.named_buffers())
    kept = {name: own[name].detach().clone() for name in tensors}
    try:
        with torch.no_grad():
            for name, value in tensors.items():
                own[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                own[name].copy_(value)


@contextmanager
def deltas_added(module: Any, deltas: Mapping[str, Tensor], strength: float = 1.0) -> Iterator[None]:
    """Add `strength` times each delta, in float32, to the parameter of its name; leaving restores every byte."""
    own = dict(module.named_parameters())
    edited = {name: own[name].detach().float() + strength * delta.to(own[name].device, own[name].float().dtype)
              for name, delta in deltas.items()}
    with tensors_replaced(module, edited):
        yield
