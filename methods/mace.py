"""MACE (Lu et al., CVPR 2024), loaded: closed-form refinement and fused LoRAs, published as Stable Diffusion 1.4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.unet_checkpoint import NAMES, UnetCheckpoint


@dataclass(frozen=True)
class MACE(UnetCheckpoint):
    """The release's `LoRA_fusion_model` folder, its `unet` folder, the folder above, or the weights file."""

    name: str = "mace"

    kind: ClassVar[str] = "mace"
    file_names: ClassVar[tuple[str, ...]] = (*NAMES, *(f"LoRA_fusion_model/{name}" for name in NAMES))
    how_to_get: ClassVar[str] = (
        "Download a fine-tuned model via the links of https://github.com/Shilin-LU/MACE ('MACE Finetuned Model "
        "Weights'; its LoRA_fusion_model folder)."
    )
