"""A training checkpoint, read back as data: it belongs to this training, is complete and has valid numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.lib.reading import UnreadableFileError, read_bytes
from harness.lib.tensor_headers import header_of

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 2**37
TRAINING, CONTENT = "training", "content"  # in the file's metadata: whose it is, and the hash of its tensors
LOSSES, GENERATOR, ADAM = "losses", "generator", "adam"
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}


class WrongStateError(Exception):
    """A checkpoint that does not belong to this training. One line."""


def signed(state: Mapping[str, Tensor], training: str) -> dict[str, str]:
    """Return the metadata of a checkpoint."""
    return {TRAINING: training, CONTENT: _digest(state)}


def read_state(file: Path, training: str) -> dict[str, Tensor] | None:
    """Return a checkpoint's tensors, None if there is none. Raises WrongStateError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = read_bytes(file, MAX_BYTES)
        if data is None:
            return None
        metadata = header_of(file, "it").metadata
        state = load(data)
    except UnreadableFileError as error:
        raise WrongStateError(error.reason) from None
    except HarnessError as error:
        raise WrongStateError(str(error)) from None
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise WrongStateError(f"it is not a complete safetensors file ({type(error).__name__})") from None
    if metadata.get(TRAINING) != training:
        raise WrongStateError("it belongs to another training or an earlier version")
    if metadata.get(CONTENT) != _digest(state):
        raise WrongStateError("its tensors do not match their hash")
    return state


def check_state(
    state: Mapping[str, Tensor], live: Mapping[str, Tensor], parameters: list[Tensor], generator: Any, total: int
) -> None:
    """Raise WrongStateError unless a loop of `total` steps over these tensors can continue from `found`."""
    losses = state.get(LOSSES)
    if losses is None or losses.dim() != 1 or not losses.is_floating_point() or not bool(losses.isfinite().all()):
        raise WrongStateError("its losses are invalid")
    if not 0 < len(losses) <= total:
        raise WrongStateError(f"it is at step {len(losses)} of {total}")
    moments = moments_of(state)
    known = {LOSSES, *live, *([GENERATOR] if generator is not None else []),
             *(f"{ADAM}.{index}.{key}" for index, moment in moments.items() for key in moment)}
    if set(state) != known:
        raise WrongStateError("it lacks tensors, or has others than this training's")
    for name, value in live.items():
        _check_like(name, state[name], value)
    _check_moments(moments, parameters)
    if generator is not None:
        _check_generator(state[GENERATOR], generator)


def moments_of(state: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return Adam's state by the index of its parameter. Raises WrongStateError."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name in (name for name in state if name.startswith(f"{ADAM}.")):
        _, index, *key = name.split(".")
        if not (index.isascii() and index.isdecimal() and len(index) < 10 and len(key) == 1):
            raise WrongStateError("its optimiser state is invalid")
        moments.setdefault(int(index), {})[key[0]] = state[name]
    return moments


def _check_like(name: str, value: Tensor, wanted: Tensor) -> None:
    if value.shape != wanted.shape or value.dtype != wanted.dtype:
        raise WrongStateError(f"{name} differs in shape or type from this training's")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise WrongStateError(f"{name} has non-finite values")


def _check_moments(moments: Mapping[int, Mapping[str, Tensor]], parameters: list[Tensor]) -> None:
    if not moments:
        raise WrongStateError("it has no optimiser state")
    for index, moment in moments.items():
        if index >= len(parameters) or set(moment) != _MOMENTS:
            raise WrongStateError("its optimiser state is for other tensors")
        for key in ("exp_avg", "exp_avg_sq"):
            _check_like(f"{ADAM}.{index}.{key}", moment[key], parameters[index])
        step = moment["step"]
        counted = step.numel() == 1 and bool(step.isfinite()) and float(step) >= 1
        if not counted or bool((moment["exp_avg_sq"] < 0).any()):
            raise WrongStateError("its optimiser state is invalid")


def _check_generator(state: Tensor, generator: Any) -> None:
    import torch

    try:
        torch.Generator(generator.device).set_state(state)
    except (RuntimeError, TypeError, ValueError):
        raise WrongStateError("its random number state is invalid") from None


def _digest(state: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
