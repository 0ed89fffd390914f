"""Directions as their authors publish them: SafeDir's pair of tensors, InterpretDiffusion's table of vectors.

SafeDir (lzws/Responsible-Diffusion, models/safe-direction.pth): b (1, L, 1) and a (1, 1, D). InterpretDiffusion
(hangligit/InterpretDiffusion, checkpoints/unet.pth): one linear layer without bias, a column (C * H * W) a concept,
and concept_dict.json beside it, from the concept's name to its column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from harness.errors import InvalidValueError, unknown_name
from harness.lib.reading import UnreadableFileError, read_json
from harness.setting_types import Must
from harness.training.published import finite, read_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

TABLES = ("controlnet.fc1.weight", "fc1.weight")  # as released; as `python -m harness artifacts export` writes it
NAMES = "concept_dict.json"
MAX_NAMES_BYTES = 1_000_000


def read_direction(path: Path) -> dict[str, Tensor]:
    """Return a SafeDir direction, float32: b (L, 1) and a (1, D), or d (L, D). Raises HarnessError for other content.

    Leading axes of length 1, which the release has, are dropped.
    """
    content, _ = read_checkpoint(path)
    names = sorted(content)
    if names not in (["a", "b"], ["d"]) or not all(hasattr(value, "dim") for value in content.values()):
        raise InvalidValueError(f"the checkpoint {path} is not a SafeDir direction: it holds "
                                f"{', '.join(map(str, names[:3])) or 'nothing'}; expected b and a, or d.")
    factors = {name: _matrix(path, name, value) for name, value in content.items()}
    if "b" in factors and (factors["b"].shape[1] != 1 or factors["a"].shape[0] != 1):
        shapes = ", ".join(f"{name} {tuple(content[name].shape)}" for name in ("b", "a"))
        raise InvalidValueError(f"the checkpoint {path} is not a SafeDir direction: {shapes}; expected (1, L, 1) and "
                                "(1, 1, D).")
    finite(path, factors)
    return factors


def _matrix(path: Path, name: str, value: Tensor) -> Tensor:
    plain = value.detach().float()
    while plain.dim() > 2 and plain.shape[0] == 1:
        plain = plain[0]
    if plain.dim() != 2:
        raise InvalidValueError(f"the checkpoint {path} is not a SafeDir direction: {name} has shape "
                                f"{tuple(value.shape)}.")
    return plain


def direction_shape(direction: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return (L, D) of a direction in either form."""
    if "d" in direction:
        return direction["d"].shape[0], direction["d"].shape[1]
    return direction["b"].shape[0], direction["a"].shape[1]


def read_vectors(path: Path, columns: Mapping[str, int], names: list[str], channels: int) -> dict[str, Tensor]:
    """Return the vectors called `names`, each (1, C, H, W) float32 with C `channels` and H = W.

    `columns` says which column is whose; without it concept_dict.json beside the file does.
    """
    content, _ = read_checkpoint(path)
    table = next((content[name] for name in TABLES if name in content), None)
    if table is None or getattr(table, "dim", lambda: 0)() != 2:
        raise InvalidValueError(f"the checkpoint {path} has no table of vectors: {' or '.join(TABLES)}, one column per "
                                "concept, is needed.")
    side = math.isqrt(max(table.shape[0] // channels, 0))
    if side < 1 or channels * side * side != table.shape[0]:
        raise InvalidValueError(f"the checkpoint {path} does not fit this model: its vectors have {table.shape[0]} "
                                f"values, but the bottleneck has {channels} channels.")
    places = columns or _columns(path)
    for name in names:
        if name not in places:
            raise unknown_name(f"direction in {path}", name, sorted(places))
        if not 0 <= places[name] < table.shape[1]:
            raise InvalidValueError(f"{path}: column {places[name]} of {name} is not one of its {table.shape[1]}.")
    vectors = {name: table[:, places[name]].detach().float().reshape(1, channels, side, side) for name in names}
    finite(path, vectors)
    return vectors


def _columns(path: Path) -> dict[str, int]:
    file = path.parent / NAMES
    try:
        content = read_json(file, MAX_NAMES_BYTES)
    except UnreadableFileError as error:
        raise InvalidValueError(f"{file} cannot be read: {error.reason}.", "Set method.columns={name: 0}.") from None
    if content is None:
        raise InvalidValueError(f"the checkpoint {path} does not name its columns: {NAMES} is missing next to it.",
                                "Set method.columns={name: 0}.")
    return check_columns(str(file), content)


Columns = Annotated[Mapping[str, Annotated[int, Ge(0)]],
                    Must("a mapping of names to columns, counted from 0", "mappings", lambda value: True)]


def check_columns(where: str, value: Any) -> dict[str, int]:
    """Return a mapping of names to columns, counted from 0. Raises InvalidValueError for anything else."""
    good = isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(place, int) and not isinstance(place, bool) and place >= 0
        for name, place in value.items()
    )
    if not good:
        raise InvalidValueError(f"{where}: names with their columns, counted from 0, are needed.")
    return dict(value)
