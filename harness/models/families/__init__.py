"""Families of models: what the engine asks instead of "if family == ...". Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import IncompatibleError
from harness.models.families.base import Batch, DenoiserCall, Family
from harness.models.families.deepfloyd import DeepFloydIF
from harness.models.families.flux import Flux
from harness.models.families.plugin import Plugin, is_plugged, plugin_of
from harness.models.families.sd3 import StableDiffusion3
from harness.models.families.sdxl import StableDiffusionXL
from harness.models.families.wuerstchen import Wuerstchen

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel

__all__ = ["FAMILIES", "Batch", "DenoiserCall", "Family", "Plugin", "family_of", "is_plugged", "kin_of", "plugin_of"]

FAMILIES: dict[str, Family] = {
    "sd1": Family(),
    "sd2": Family(),
    "sdxl": StableDiffusionXL(),
    "if": DeepFloydIF(),
    "sd3": StableDiffusion3(),
    "flux": Flux(),
    "wuerstchen": Wuerstchen(),
}


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family that a model config names, or its plug-in. Raises HarnessError for one that is not known."""
    if is_plugged(config):
        return plugin_of(config)
    family = str(config.get("family") or "sd1")
    if family not in FAMILIES:
        raise IncompatibleError(f"model {config.get('name')} has family={family}; supported families: "
                                f"{', '.join(FAMILIES)}.")
    return FAMILIES[family]


def kin_of(model: LoadedModel) -> Family:
    """Return the family, or the plug-in, of a loaded model."""
    assert isinstance(model.kin, Family)
    return model.kin
