"""Whether a safetensors file's values are finite: read by NumPy, without torch, once until the file changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.lib.tensor_headers import FLOATS, Header, TensorEntry, read_header

WHOLE = 48 << 20  # bytes of a file whose every value is looked at
SAMPLED, SAMPLE = 64, 4096  # of larger ones: so many tensors, and so many bytes of each
# Exponents of all ones: not finite. By type: how many bytes a value has, and these bits.
_EXPONENT: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80), "F32": (np.uint32, 0x7F800000),
    "F64": (np.uint64, 0x7FF0000000000000)}  # fmt: skip


def not_finite(file: Path) -> str | None:
    """Return the first tensor with a value that is not finite: of small files every value is read, else samples."""
    stat = os.stat(file)
    return _looked_at(str(file), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _looked_at(path: str, size: int, mtime_ns: int) -> str | None:
    header = read_header(Path(path))
    with open(path, "rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        for name, entry, length in _looks(header, whole=size <= WHOLE):
            stream.seek(start + entry.begin)
            kind, ones = _EXPONENT[entry.dtype]
            values = np.frombuffer(stream.read(length), kind)
            if ((values & kind(ones)) == ones).any():
                return name
    return None


def _looks(header: Header, whole: bool) -> Iterator[tuple[str, TensorEntry, int]]:
    floats = [(name, entry) for name, entry in header.tensors.items() if entry.dtype in FLOATS]
    if whole:
        yield from ((name, entry, entry.end - entry.begin) for name, entry in floats)
    else:
        for name, entry in floats[:: max(1, len(floats) // SAMPLED)]:
            yield name, entry, min(SAMPLE, entry.end - entry.begin)
