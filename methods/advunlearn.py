"""AdvUnlearn (Zhang et al., NeurIPS 2024), loaded: an adversarially unlearned text encoder for Stable Diffusion 1.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.lib.tensor_headers import TensorEntry
from harness.lib.torch_headers import content_of
from harness.method import Artifact
from harness.models.part_tensors import base_shapes
from harness.training.published import CheckpointMethod, check_layout, check_width, finite, first_file, read_checkpoint
from harness.training.weight_edits import FAMILIES, check_family, tensors_replaced

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

PUBLISHED = "hf://OPTML-Group/AdvUnlearn"  # all of Stable Diffusion 1.4's encoder, CLIP ViT-L
NAMES = ("model.safetensors", "pytorch_model.bin")
WRAPPED = "text_encoder."
UNTRAINED = "embeddings.position_ids"  # a counter that older libraries stored


def encoder_tensors(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the encoder's tensors by plain names: of a text encoder's state dict, or of the release's wrapper.

    TextEncoder-*.pt holds the encoder under `text_encoder.` and, beside it, its parts once more under other names.
    """
    wrapped = {name.removeprefix(WRAPPED): one for name, one in content.items() if name.startswith(WRAPPED)}
    tensors = wrapped or content
    return {plain: tensors[name] for name, plain in plain_names(tensors).items() if plain != UNTRAINED}


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name without the prefix that transformers 4 puts before a CLIP text model's parts."""
    return {name: name.removeprefix("text_model.") for name in names}


@dataclass(frozen=True)
class AdvUnlearn(CheckpointMethod):
    """A folder of the release (nudity_unlearned, ...), its weights file, or its TextEncoder-*.pt.

    W + strength (W' - W) throughout.
    """

    name: str = "advunlearn"

    kind: ClassVar[str] = "advunlearn"
    edits_model: ClassVar[bool] = True
    weights_of: ClassVar[str | None] = "text encoder"
    replaces_weights: ClassVar[bool] = True
    edits_denoiser: ClassVar[bool] = False
    file_names: ClassVar[tuple[str, ...]] = NAMES
    beside: ClassVar[tuple[str, ...]] = ("config.json",)
    how_to_get: ClassVar[str] = (
        "Get it: hf download OPTML-Group/AdvUnlearn --include 'nudity_unlearned/*', then "
        "method.checkpoint=hf://OPTML-Group/AdvUnlearn/nudity_unlearned."
    )

    def files(self) -> list[Path]:
        return [first_file(path, NAMES) for path in self.paths]

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        published = any(source.startswith(PUBLISHED) for source in self.checkpoint or ())
        check_family(self.name, model_config, "the CLIP text encoder that its checkpoint was made from",
                     ("sd1",) if published else FAMILIES)
        check_width(self.name, self.files(), model_config, "text_encoder", "hidden_size", "token_embedding.weight")
        self.check_contents(model_config)

    def compare(self, model_config: Mapping[str, Any]) -> None:
        (file,) = self.files()
        tensors, expected = encoder_tensors(content_of(file)), base_shapes(model_config, "text_encoder")
        if expected is not None:
            check_layout(file, {name: one for name, one in tensors.items() if isinstance(one, TensorEntry)}, expected)

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if not self.strength:
            return nullcontext()
        self.require()
        return tensors_replaced(model.pipe.text_encoder, self._weights(model))

    def _weights(self, model: LoadedModel) -> dict[str, Tensor]:
        (file,) = self.files()
        content, _ = read_checkpoint(file)
        tensors = encoder_tensors(content)
        parameters = dict(model.pipe.text_encoder.named_parameters())
        plain = plain_names(parameters)
        check_layout(file, tensors, {plain[name]: value.shape for name, value in parameters.items()})
        finite(file, tensors)
        if self.strength == 1:
            return {name: tensors[plain[name]] for name in parameters}
        return {name: value.detach().float() + self.strength * (tensors[plain[name]].to(value.device).float()
                                                                - value.detach().float())
                for name, value in parameters.items()}  # fmt: skip
