"""CompVis' names, which kohya uses too, for the modules of a diffusers U-Net."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
_ALONE = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
          "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
          "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
_MIDDLE = {("resnets", 0): 0, ("attentions", 0): 1, ("resnets", 1): 2}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def ldm_names(modules: Iterable[str]) -> dict[str, str]:
    """Return {CompVis' name: diffusers' name} of a U-Net's modules, where they have one."""
    names = list(modules)
    return {ldm: name for name in names for ldm in _names(name, names)}


def _names(name: str, names: list[str]) -> Iterator[str]:
    if name in _ALONE:
        yield _ALONE[name]
    elif mid := _MID.fullmatch(name):
        place = _MIDDLE.get((mid[1], int(mid[2])))
        if place is not None:
            yield f"middle_block.{place}.{_inner(mid[1], mid[3])}"
    elif block := _BLOCK.fullmatch(name):
        yield from _in_block(block, names)


def _in_block(block: re.Match[str], names: list[str]) -> Iterator[str]:
    side, kind, inner = block[1], block[3], block[5]
    i, j = int(block[2]), int(block[4])
    each = _layers(names) + 1  # blocks of CompVis' in one of diffusers: the last one of a way down only makes smaller
    if side == "down":
        place = 1 + i * each + j if kind in ("resnets", "attentions") else (i + 1) * each
        yield f"input_blocks.{place}.{'0.op' if kind == 'downsamplers' else _slot(kind, inner)}"
    elif kind == "upsamplers":
        slot = 2 if any(name.startswith(f"up_blocks.{i}.attentions.") for name in names) else 1
        yield f"output_blocks.{i * each + each - 1}.{slot}.{inner}"
    else:
        yield f"output_blocks.{i * each + j}.{_slot(kind, inner)}"


def _slot(kind: str, inner: str) -> str:
    return f"{0 if kind == 'resnets' else 1}.{_inner(kind, inner)}"


def _inner(kind: str, inner: str) -> str:
    return _RESNET.get(inner, inner) if kind == "resnets" else inner


def _layers(names: list[str]) -> int:
    """Return how many layers a block of the way down has."""
    indices = {match[1] for name in names if (match := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))}
    return len(indices)
