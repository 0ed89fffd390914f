"""A U-Net that somebody fine-tuned, published as a whole: its weights take the place of the model's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import InvalidValueError
from harness.method import Artifact
from harness.models.part_tensors import base_shapes, entries_of, misnamed, tensors_of
from harness.training.published import CheckpointMethod, check_layout, check_width, first_file
from harness.training.weight_edits import FAMILIES, check_family, tensors_replaced

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
NAMES = (*(f"unet/{name}" for name in WEIGHTS), *WEIGHTS)


@dataclass(frozen=True)
class UnetCheckpoint(CheckpointMethod):
    """W + strength (W' - W), with W' from a state dict in diffusers' names, a U-Net folder or a pipeline folder."""

    edits_model: ClassVar[bool] = True
    weights_of: ClassVar[str | None] = "U-Net"
    replaces_weights: ClassVar[bool] = True
    file_names: ClassVar[tuple[str, ...]] = NAMES
    partial: ClassVar[bool] = False  # the file may hold some of the U-Net's tensors only
    families: ClassVar[tuple[str, ...]] = FAMILIES

    def files(self) -> list[Path]:
        return [first_file(path, self.file_names) for path in self.paths]

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "the U-Net that its checkpoint was made from",
                     self.families)
        check_width(self.name, self.files(), model_config, "unet", "cross_attention_dim", "attn2.to_k.weight")
        self.check_contents(model_config)

    def compare(self, model_config: Mapping[str, Any]) -> None:
        (file,) = self.files()
        entries, shapes = entries_of(file), base_shapes(model_config, "unet")
        other = misnamed(entries)
        if other:
            raise InvalidValueError(f"the checkpoint {file} does not fit method {self.name}: {other}.",
                                    "The authors' file with diffusers' names is called diffusers-....pt.")
        if shapes is not None:
            self._check_layout(file, entries, shapes)

    def _check_layout(self, file: Path, entries: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
        if not entries:
            raise InvalidValueError(f"the checkpoint {file} has no tensors.")
        known = {name: shapes[name] for name in entries if name in shapes} if self.partial else {}
        check_layout(file, entries, known or shapes)

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if not self.strength:
            return nullcontext()
        self.require()
        return tensors_replaced(model.denoiser, self._weights(model))

    def _weights(self, model: LoadedModel) -> dict[str, Tensor]:
        (file,) = self.files()
        self.compare(model.config)
        tensors, state = tensors_of([file]), model.denoiser.state_dict()
        self._check_layout(file, tensors, {name: tuple(value.shape) for name, value in state.items()})
        if self.strength == 1:
            return tensors
        return {name: value.float() + self.strength * (tensors[name].to(value.device).float() - value.float())
                for name, value in state.items() if name in tensors}  # fmt: skip
