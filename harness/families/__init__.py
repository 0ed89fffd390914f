"""Families of models: what the engine asks instead of "if family == ...". Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import IncompatibleError
from harness.families.base import Batch, DenoiserCall, Family
from harness.families.deepfloyd import DeepFloydIF
from harness.families.sdxl import StableDiffusionXL

__all__ = ["FAMILIES", "Batch", "DenoiserCall", "Family", "family_of"]

FAMILIES: dict[str, Family] = {
    "sd1": Family(),
    "sd2": Family(),
    "sdxl": StableDiffusionXL(),
    "if": DeepFloydIF(),
}


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family that a model config names. Raises IncompatibleError for one that is not known."""
    family = str(config.get("family") or "sd1")
    if family not in FAMILIES:
        raise IncompatibleError(f"model {config.get('name')} is of the family {family}, and models of the families "
                                f"{', '.join(FAMILIES)} can be loaded.")
    return FAMILIES[family]
