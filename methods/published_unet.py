"""A U-Net's layers that somebody trained and published as they are, laid over the model's own.

ESD's release writes the layers that it trained, UCE's the cross-attention's K and V, by diffusers' names; ESD's older
code one state dict for each module. A whole U-Net serves, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.training.weight_edits import UNETS
from methods.unet_checkpoint import UnetCheckpoint


@dataclass(frozen=True)
class PublishedUnet(UnetCheckpoint):
    """W + strength (W' - W) for every tensor that the file holds."""

    name: str = "published_unet"

    kind: ClassVar[str] = "published_unet"
    partial: ClassVar[bool] = True
    families: ClassVar[tuple[str, ...]] = UNETS
    how_to_get: ClassVar[str] = (
        "Use the file that esd_sd.py of https://github.com/rohitgandikota/erasing or uce_sd_erase.py of "
        "https://github.com/rohitgandikota/unified-concept-editing wrote."
    )
