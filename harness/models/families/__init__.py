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
from harness.models.families.stable_diffusion import StableDiffusion1, StableDiffusion2
from harness.models.families.wuerstchen import Wuerstchen

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel

__all__ = ["ALIASES", "FAMILIES", "MIRRORS", "Batch", "DenoiserCall", "Family", "Plugin", "family_name", "family_of",
           "is_plugged", "kin_of", "plugin_of"]  # fmt: skip

FAMILIES: dict[str, Family] = {
    "sd1": StableDiffusion1(),
    "sd2": StableDiffusion2(),
    "sdxl": StableDiffusionXL(),
    "if": DeepFloydIF(),
    "sd3": StableDiffusion3(),
    "flux": Flux(),
    "wuerstchen": Wuerstchen(),
}
ALIASES = {alias: family.pipeline for family in FAMILIES.values() for alias in family.aliases}
MIRRORS = {gone: copy for family in FAMILIES.values() for gone, copy in family.mirrors.items()}


def family_name(config: Mapping[str, Any]) -> str:
    """Return the name of the family that a model config is of; the first one's where it names none."""
    return str(config.get("family") or next(iter(FAMILIES)))


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family that a model config names, or its plug-in. Raises HarnessError for one that is not known."""
    if is_plugged(config):
        return plugin_of(config)
    family = family_name(config)
    if family not in FAMILIES:
        raise IncompatibleError(f"model {config.get('name')} has family={family}; supported families: "
                                f"{', '.join(FAMILIES)}.")
    return FAMILIES[family]


def kin_of(model: LoadedModel) -> Family:
    """Return the family, or the plug-in, of a loaded model."""
    assert isinstance(model.kin, Family)
    return model.kin
