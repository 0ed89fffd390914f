"""Headers of files of tensors: which tensors a file holds, by name, type and shape, without reading any. No torch.

A header is data from elsewhere: it is read with limits and against a schema, and every fault is one line.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from harness.errors import HarnessError, InvalidValueError, MissingResourceError

SUFFIX = ".safetensors"
MAX_HEADER = 32 << 20  # bytes; the largest published ones have some 10 MB
MAX_NAME, MAX_DIMENSIONS = 1024, 32
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
FLOATS = ("F16", "BF16", "F32", "F64")
LFS_POINTER, ZIP, PICKLE = b"version https://git-lfs", b"PK\x03\x04", b"\x80"
AGAIN = "Download it again."


class FileFault(Exception):
    """Why a file of tensors cannot be used, as the end of a sentence that begins with its path; and what to do."""

    def __init__(self, reason: str, remedy: str = AGAIN, absent: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.absent = reason, remedy, absent

    def about(self, subject: object) -> FileFault:
        """Return the fault with its subject before the reason."""
        return FileFault(f"{subject} {self.reason}", self.remedy, self.absent)

    def as_error(self) -> HarnessError:
        """Return the error that says it, where the reason has its subject."""
        kind = MissingResourceError if self.absent else InvalidValueError
        return kind(f"{self.reason}.", self.remedy or None)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its type as safetensors writes it, its shape, and where its bytes are in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0
    end: int = 0

    @property
    def is_float8(self) -> bool:
        return self.dtype.startswith("F") and BITS[self.dtype] <= 8


@dataclass(frozen=True)
class Header:
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.tensors.items()}


def shown(name: object) -> str:
    """Return a name from a file as a terminal may show it: short, and of plain characters."""
    text = str(name)
    plain = text if text.isprintable() and text.isascii() else ascii(text)[1:-1]
    return plain if len(plain) <= 120 else f"{plain[:100]}... ({len(text)} characters)"


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file that is complete. Raises FileFault; once a file, until it changes."""
    try:
        about = os.stat(path)
        if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
            raise FileFault("is not a regular file", "")
        header = _cached(str(path), about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise os_fault(error) from None
    if isinstance(header, FileFault):
        raise FileFault(header.reason, header.remedy, header.absent)
    return header


def header_of(path: Path, subject: object = None) -> Header:
    """Return the header of a safetensors file. Raises HarnessError in one line about `subject`, or the path."""
    try:
        return read_header(path)
    except FileFault as fault:
        raise fault.about(path if subject is None else subject).as_error() from None


def pointer_fault() -> FileFault:
    return FileFault("is a git-lfs pointer, not the file itself", "Get it: git lfs pull")


def os_fault(error: OSError) -> FileFault:
    """Return what an error of the operating system means for a file that is to be read."""
    if isinstance(error, PermissionError):
        return FileFault("cannot be read: permission denied", "Ask its owner, or copy it: chmod a+r.")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return FileFault("is missing", "", absent=True)
    reason = " ".join(str(error.strerror or error).split())
    return FileFault(f"cannot be read: {reason}", "Check the path and the disk.")


@lru_cache(maxsize=512)
def _cached(path: str, size: int, mtime_ns: int) -> Header | FileFault:
    try:
        with open(path, "rb") as stream:
            return _parsed(stream.read(8), stream, size)
    except IsADirectoryError:
        return FileFault("is a folder", "Use the file in it.")
    except FileFault as fault:
        return fault


def _parsed(start: bytes, stream: Any, size: int) -> Header:
    if size == 0:
        raise FileFault("is empty")
    length = int.from_bytes(start, "little") if len(start) == 8 else size
    if length > size - 8:
        raise _other_file(start + stream.read(56), length, size)
    if length > MAX_HEADER:
        raise FileFault(f"has a header of {length} bytes, more than the limit of {MAX_HEADER}")
    tensors, metadata = _entries(_json(stream.read(length)))
    _check_extent(tensors.values(), size - 8 - length)
    return Header(tensors, metadata)


def _other_file(start: bytes, length: int, size: int) -> FileFault:
    """Return what a file is if it does not start with a header length: often another kind of file."""
    text = start.lstrip().lower()
    if start.startswith(LFS_POINTER):
        return pointer_fault()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return FileFault("is a web page, not a safetensors file: cut short, or saved from a page that asks to log in")
    if start.startswith((ZIP, PICKLE)):
        return FileFault("is a torch pickle under another name",
                         "Convert it: python -m harness convert <it, renamed to .pt> <new file>.safetensors")
    if text.startswith((b"{", b"version")):
        return FileFault("is a text file, not a safetensors file")
    if 1 < length <= MAX_HEADER and start[8:9] == b"{":
        return FileFault(f"is truncated: {size} bytes, and its header alone has {length}")
    return FileFault("is truncated, or not a safetensors file")


def _json(data: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise FileFault("has a header with a duplicate name")
        return values

    def constant(text: str) -> Any:
        raise ValueError(text)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=constant)
    except (ValueError, RecursionError, MemoryError):
        raise FileFault("has a header that is not JSON: damaged, or not a safetensors file") from None


def _entries(header: Any) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    if not isinstance(header, dict):
        raise FileFault(f"has a header that is a {type(header).__name__}, not names of tensors")
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileFault("has metadata that does not map names to texts")
    return {_name(name): _entry(name, value) for name, value in header.items()}, metadata


def _name(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise FileFault("has a tensor name with invalid characters") from None
    if len(name) > MAX_NAME:
        raise FileFault(f"has a name of {len(name)} characters, more than {MAX_NAME}")
    return name


def _entry(name: str, value: Any) -> TensorEntry:
    if not isinstance(value, dict):
        raise FileFault(f"gives no shape for {shown(name)}")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FileFault(f"has {shown(name)} of an unknown type ({shown(dtype)})")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise FileFault(f"gives no usable shape for {shown(name)}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FileFault(f"gives no usable offsets for {shown(name)}")
    if math.prod(shape) * BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise FileFault(f"has the wrong number of bytes for the shape of {shown(name)}")
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**63 for one in value)  # fmt: skip


def _check_extent(entries: Collection[TensorEntry], held: int) -> None:
    """Check that tensors follow each other without overlap or gap, and end where the file ends."""
    place = 0
    for entry in sorted(entries, key=lambda one: (one.begin, one.end)):
        if entry.begin != place:
            raise FileFault("has tensors that overlap" if entry.begin < place else "has gaps between its tensors")
        place = entry.end
    if held < place:
        raise FileFault(f"is truncated: it holds {held} bytes of tensors, and its header says {place}")
    if held > place:
        raise FileFault(f"is longer than its header says ({held - place} bytes more)")


def check_computable(header: Header) -> None:
    """Raise FileFault for weights of a type that no model computes with: float8, or quantised to integers."""
    for name, entry in header.tensors.items():
        quantised = entry.dtype not in FLOATS and name.endswith((".weight", ".bias"))
        if entry.is_float8 or quantised:
            kind = "float8" if entry.is_float8 else "quantised"
            raise FileFault(f"holds {shown(name)} as {entry.dtype}: {kind} weights are not supported",
                            "Use the float16, bfloat16 or float32 files.")


def finite(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raise InvalidValueError naming the first tensor with a value that is not finite."""
    bad = next((name for name, value in tensors.items() if not value.isfinite().all()), None)
    if bad:
        raise InvalidValueError(f"the checkpoint {path} is broken: {shown(bad)} has non-finite values.")
