"""SalUn (Fan et al., ICLR 2024), loaded: saliency-masked unlearning of the U-Net of Stable Diffusion 1.4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.unet_checkpoint import UnetCheckpoint


@dataclass(frozen=True)
class SalUn(UnetCheckpoint):
    """The release's `models/<name>/diffusers-....pt`: a state dict of the U-Net in diffusers' names."""

    name: str = "salun"

    kind: ClassVar[str] = "salun"
    how_to_get: ClassVar[str] = (
        "Download diffusers-nsfw-....pt via the links of https://github.com/OPTML-Group/Unlearn-Saliency or of "
        "https://github.com/OPTML-Group/AdvUnlearn ('Checkpoints')."
    )
