"""SPM (Lyu et al., CVPR 2024), loaded: 1-dimensional adapters that open as far as the prompt is like what they erase.

A layer answers W x + alpha / rank up down x, scaled by the image's "facilitated transport" gamma: the largest, over
the erased prompts, of the cosine of whole text embeddings and the share of the erased prompt's tokens in the prompt.
The released inference multiplies up and down each by gamma, and mixes several adapters so:
(sum_i gamma_i up_i) (sum_j gamma_j down_j); the paper's eq. 9 is sum_i gamma_i up_i down_i. Both are here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from harness.errors import InvalidValueError
from harness.lib.tensor_headers import SUFFIX, header_of
from harness.lib.torch_headers import content_of
from harness.lib.wanted import HubFiles, names_in
from harness.method import Artifact
from harness.models.part_tensors import base_shapes
from harness.setting_types import OneOrMore, Text
from harness.training.published import CheckpointMethod, check_layout, check_width, finite, first_file, read_checkpoint
from harness.training.weight_edits import check_family

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

LAST = "_last.safetensors"


def adapted(x: Tensor, down: Tensor, up: Tensor, gamma: Tensor, transport: str) -> Tensor:
    """Return the adapters' answer (B, ..., O) for x (B, ..., I): down (S, r, I), up (S, O, r), gamma (B, S).

    "released": sum_i g_i up_i (sum_j g_j down_j x); "paper": sum_i g_i up_i down_i x.
    """
    import torch

    gamma = gamma.to(x.dtype).view(len(x), *[1] * (x.ndim - 2), gamma.shape[1], 1)
    inner = torch.einsum("b...i,sri->b...sr", x, down.to(x.dtype)) * gamma
    if transport == "released":
        inner = inner.sum(-2, keepdim=True) * gamma
    return torch.einsum("b...sr,sor->b...o", inner, up.to(x.dtype))


def token_share(prompt: set[int], erased: set[int]) -> float:
    """Return the share of the erased prompt's tokens that the prompt has (the release's "tokenuni")."""
    return len(prompt & erased) / len(erased) if erased else 0.0


@dataclass(frozen=True)
class Adapters:
    """S adapters of every adapted layer: down (S, r, I...), up (S, O, r), alpha / rank in `up`; and what they erase."""

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    erased: tuple[tuple[str, ...], ...]


def adapted_layers(denoiser: Any) -> dict[str, Any]:
    """Return each linear and convolution layer of the attention blocks by the release's name for it."""
    layers = {}
    for name, module in denoiser.named_modules():
        if type(module).__name__ == "Transformer2DModel":
            for child_name, child in module.named_modules():
                if type(child).__name__ in ("Linear", "Conv2d"):
                    layers[f"lora_unet.{name}.{child_name}".replace(".", "_")] = child
    return layers


@dataclass(frozen=True)
class SPM(CheckpointMethod):
    """One file or several (`*_last.safetensors`, or the folder of its name); `strength` scales what they add.

    `multipliers` (one for each file) replaces gamma by constants. `concepts` says what is erased where a file has no
    metadata: one list for each file, prompts of one file separated by commas.
    """

    concepts: OneOrMore[Text] | None = None
    matching: Literal["clipcos_tokenuni", "clipcos", "tokenuni"] = "clipcos_tokenuni"
    multipliers: tuple[Annotated[float, Ge(-10), Le(10)], ...] | None = None
    transport: Literal["released", "paper"] = "released"
    name: str = "spm"

    kind: ClassVar[str] = "spm"
    version: ClassVar[int] = 2
    edits_model: ClassVar[bool] = True
    single: ClassVar[bool] = False
    edits_training: ClassVar[bool] = False
    how_to_get: ClassVar[str] = "Download the erasers (SPMs) via the links of https://github.com/Con6924/SPM."

    @property
    def reads_prompts(self) -> bool:  # type: ignore[override]
        return self.multipliers is None and bool(self.strength)

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("concepts", "multipliers"):
            value = getattr(self, setting)
            if value is not None and len(value) != len(self.paths):
                raise InvalidValueError(f"method.{setting} has {len(value)} values for {len(self.paths)} checkpoints.")

    def files(self) -> list[Path]:
        return [_file(path) for path in self.paths]

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "the U-Net that its adapters were made for")
        check_width(self.name, self.files(), model_config, "unet", "cross_attention_dim",
                    "attn2_to_k.lora_down.weight")
        self.check_contents(model_config)

    def compare(self, model_config: Mapping[str, Any]) -> None:
        shapes = base_shapes(model_config, "unet")
        for index, file in enumerate(self.files()):
            tensors = content_of(file)
            self._erased(index, file, _metadata(file))
            if shapes is not None:
                check_layout(file, tensors, _shapes(_layers_in(shapes), _rank(tensors)))

    def of_hub_folder(self, repo: str, place: str) -> HubFiles:
        """Return the one file that is read of a folder; the root of a repository has the only such file there is."""
        name = place.rpartition("/")[2]
        if name:
            return HubFiles(repo, self.revision, names_in(place, (f"{name}{LAST}",)))
        return HubFiles(repo, self.revision, (f"*{LAST}",), single=True)

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if not self.strength:
            return nullcontext()
        self.require()
        layers = adapted_layers(model.denoiser)
        return self._hooked(model, layers, self.load(layers))

    def load(self, layers: Mapping[str, Any]) -> Adapters:
        """Read all files and stack them. Raises InvalidValueError where one does not fit the layers or the others."""
        import torch

        read = [self._read(index, file, layers) for index, file in enumerate(self.files())]
        first = read[0][0]
        for tensors, _ in read[1:]:
            if any(tensors[name].shape != value.shape for name, value in first.items()):
                raise InvalidValueError(f"the checkpoints of method {self.name} have adapters of different rank.")
        stacked = {name: torch.stack([tensors[name] for tensors, _ in read]) for name in first}
        return Adapters({name: stacked[f"{name}.lora_down.weight"] for name in layers},
                        {name: stacked[f"{name}.lora_up.weight"] for name in layers},
                        tuple(erased for _, erased in read))  # fmt: skip

    def _read(self, index: int, file: Path, layers: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        checkpoint, metadata = read_checkpoint(file)
        erased = self._erased(index, file, metadata)
        check_layout(file, checkpoint, _shapes({name: tuple(layer.weight.shape) for name, layer in layers.items()},
                                          _rank(checkpoint)))  # fmt: skip
        finite(file, checkpoint)
        tensors: dict[str, Tensor] = {}
        for name in layers:
            down, up = (checkpoint[f"{name}.lora_{part}.weight"].float() for part in ("down", "up"))
            alpha = _alpha(metadata.get("alpha"), float(checkpoint[f"{name}.alpha"]), len(down))
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up.flatten(1) * alpha / len(down)}
        return tensors, erased

    def _erased(self, index: int, file: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
        """Return the prompts that a file erases. Raises InvalidValueError where nothing says them."""
        told = self.concepts[index] if self.concepts is not None else metadata.get("prompts")
        if not told and self.multipliers is None:
            raise InvalidValueError(f"the checkpoint {file} does not say what it erases.", "Set method.concepts.")
        return tuple(text.strip() for text in (told or "").split(","))

    @contextmanager
    def _hooked(self, model: LoadedModel, layers: Mapping[str, Any], adapters: Adapters) -> Iterator[None]:
        scales = _RowScales(model, cache(lambda prompt: self.gamma(model, prompt, adapters.erased)))
        with ExitStack() as stack:
            for name, layer in layers.items():
                down, up = (part[name].to(model.device) for part in (adapters.down, adapters.up))
                stack.callback(layer.register_forward_hook(self._hook(scales, down, up)).remove)
            yield

    def _hook(self, scales: _RowScales, down: Tensor, up: Tensor) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            gamma = scales()
            if gamma is None:
                return None
            if hasattr(layer, "kernel_size"):
                return output + self.strength * _convolved(layer, inputs[0], down, up, gamma, self.transport)
            return output + self.strength * adapted(inputs[0], down, up, gamma, self.transport)

        return hook

    def gamma(self, model: LoadedModel, prompt: str, erased: Sequence[Sequence[str]]) -> list[float]:
        """Return each adapter's scale for a prompt."""
        if self.multipliers is not None:
            return list(self.multipliers)
        return [max(self.match(model, prompt, text) for text in texts) for texts in erased]

    def match(self, model: LoadedModel, prompt: str, erased: str) -> float:
        """Return how like a prompt is to an erased one."""
        import torch

        scores = []
        if "clipcos" in self.matching:
            one, other = (model.embed(text).float().flatten() for text in (prompt, erased))
            scores.append(float(torch.nn.functional.cosine_similarity(one, other, dim=0)))
        if "tokenuni" in self.matching:
            scores.append(token_share(_tokens(model, prompt), _tokens(model, erased)))
        return max(scores)


class _RowScales:
    """The scales (rows, S) of the running denoiser call, worked out once for all layers; None where all are 0."""

    def __init__(self, model: LoadedModel, gamma: Callable[[str], list[float]]) -> None:
        self.model, self.gamma = model, gamma
        self._known: tuple[Any, Any, Tensor | None] = ((), (), None)

    def __call__(self) -> Tensor | None:
        import torch

        model = self.model
        items, roles, scales = self._known
        if items is not model.items or roles is not model.roles:
            given = torch.tensor([self.gamma(item.prompt) for item in model.items], device=model.device)
            scales = given.repeat(len(model.roles) // len(model.items), 1) if model.roles and given.any() else None
            self._known = (model.items, model.roles, scales)
        return scales


def _alpha(told: str | None, stored: float, rank: int) -> float:
    """Return alpha: as the metadata tell it, else as stored; "None" or 0 is the rank, as in the release."""
    return (stored if told is None else 0.0 if told == "None" else float(told)) or float(rank)


def _file(path: Path) -> Path:
    """Return the file of a folder: by the folder's name or, in a snapshot of the hub, the only one."""
    named = path / f"{path.name}{LAST}"
    if path.is_dir() and not named.is_file() and path.parent.name == "snapshots":
        return next(iter(sorted(path.glob(f"*{LAST}"))), named)
    return first_file(path, (named.name,))


def _metadata(file: Path) -> Mapping[str, str]:
    return header_of(file).metadata if file.suffix == SUFFIX else {}


def _rank(tensors: Mapping[str, Any]) -> int:
    """Return the rank of the adapters of a file."""
    return next((value.shape[0] for name, value in tensors.items()
                 if name.endswith("lora_down.weight") and len(value.shape)), 0)  # fmt: skip


def _layers_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the weight shape of each layer that is adapted, as `adapted_layers` does, from the shapes of a U-Net."""
    return {f"lora_unet.{name.removesuffix('.weight')}".replace(".", "_"): shape for name, shape in shapes.items()
            if name.endswith(".weight") and len(shape) > 1 and re.search(r"(^|\.)attentions\.\d+\.", name)}  # fmt: skip


def _shapes(layers: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
    """Return what a file must hold, for the weight shapes of layers: down, up and alpha of every layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, into, *kernel) in layers.items():
        r = min(rank, out, into) if kernel else rank
        shapes[f"{name}.lora_down.weight"] = (r, into, *kernel)
        shapes[f"{name}.lora_up.weight"] = (out, r, *[1 for _ in kernel])
        shapes[f"{name}.alpha"] = ()
    return shapes


def _convolved(layer: Any, x: Tensor, down: Tensor, up: Tensor, gamma: Tensor, transport: str) -> Tensor:
    """Return the adapters' answer (B, O, H, W) of a convolution: the same with patches for channels."""
    import torch

    (kh, kw), (_, _, into, *_) = layer.kernel_size, down.shape
    patches = torch.nn.functional.unfold(x, (kh, kw), padding=layer.padding, stride=layer.stride).movedim(1, -1)
    answer = adapted(patches, down.reshape(*down.shape[:2], into * kh * kw), up, gamma, transport).movedim(-1, 1)
    height = (x.shape[-2] + 2 * layer.padding[0] - kh) // layer.stride[0] + 1
    return answer.reshape(*answer.shape[:2], height, -1)


def _tokens(model: LoadedModel, text: str) -> set[int]:
    tokenizer = model.pipe.tokenizer
    ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
    return set(ids) - set(tokenizer.all_special_ids)
