"""Sets of a denoiser's parameters that fine-tuning changes, by the names of ESD's and SDD's repositories.

ESD-x is `xattn`, ESD-x-strict `x_strict`, and ESD-u as SDD's repository reads it `noxattn`. ESD's own repository takes
weights and biases of Linear and Conv2d only and, on SDXL, those of blocks without embeddings of time: `esd_u` outside
of cross-attention, `esd_all` everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.training import fine_tuning
from harness.training.fine_tuning import ParameterSet


def _esd_u(denoiser: Any) -> list[str]:
    return [name for name in _esd_all(denoiser) if "attn2" not in name]


def _esd_all(denoiser: Any) -> list[str]:
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    owned = {f"{path}.{name}" for path, module in denoiser.named_modules() if isinstance(module, kinds)
             for name, _ in module.named_parameters(recurse=False)}
    names = [name for name, _ in denoiser.named_parameters() if name in owned]
    if getattr(denoiser.config, "addition_embed_type", None) == "text_time":
        return [name for name in names if "block" in name and "emb" not in name]
    return names


PARAMETER_SETS: Mapping[str, ParameterSet] = {**fine_tuning.PARAMETER_SETS, "esd_u": _esd_u, "esd_all": _esd_all}
