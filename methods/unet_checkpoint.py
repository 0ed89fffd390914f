"""A U-Net that somebody fine-tuned, published as a whole: its weights take the place of the model's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.checkpoints import CheckpointMethod, check_layout, check_width, finite, first_file, read_checkpoint
from harness.errors import InvalidValueError
from harness.method import Artifact
from harness.weight_edits import check_family, tensors_replaced

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models import LoadedModel

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
NAMES = (*(f"unet/{name}" for name in WEIGHTS), *WEIGHTS)
COMPVIS = "model.diffusion_model."


@dataclass(frozen=True)
class UnetCheckpoint(CheckpointMethod):
    """W + strength (W' - W), with W' from a state dict in diffusers' names, a U-Net folder or a pipeline folder."""

    edits_model: ClassVar[bool] = True
    weights_of: ClassVar[str | None] = "U-Net"
    replaces_weights: ClassVar[bool] = True

    def files(self) -> list[Path]:
        return [first_file(path, NAMES) for path in self.paths]

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "the U-Net that its checkpoint was made from")
        check_width(self.name, self.files(), model_config, "unet", "cross_attention_dim", "attn2.to_k.weight")

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if not self.strength:
            return nullcontext()
        self.require()
        return tensors_replaced(model.denoiser, self._weights(model))

    def _weights(self, model: LoadedModel) -> dict[str, Tensor]:
        (file,) = self.files()
        found, _ = read_checkpoint(file)
        if any(name.startswith(COMPVIS) for name in found):
            raise InvalidValueError(f"the checkpoint {file} has CompVis' names; method {self.name} reads diffusers' "
                                    "names, the file that its authors call diffusers-....pt.")
        own = model.denoiser.state_dict()
        check_layout(file, found, {name: value.shape for name, value in own.items()})
        finite(file, found)
        if self.strength == 1:
            return found
        return {name: value.float() + self.strength * (found[name].to(value.device).float() - value.float())
                for name, value in own.items()}
