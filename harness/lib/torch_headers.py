"""Which tensors a torch file or a pickle of tensors has, by name, type and shape. Executes nothing; no torch.

Zip files of torch 1.6 and later, files from before, and plain pickles of tensors. What is more than names, numbers and
tensors is refused.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from harness.lib.tensor_headers import (
    BITS,
    LFS_POINTER,
    SUFFIX,
    FileFault,
    TensorEntry,
    check_computable,
    os_fault,
    pointer_fault,
    read_header,
    shown,
)

MAX_PICKLE = 64 << 20  # bytes; the largest published ones have some MB
OLD_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
             "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
             "ByteStorage": "U8", "BoolStorage": "BOOL", "UntypedStorage": "U8"}  # fmt: skip


@dataclass(frozen=True)
class _Storage:
    """The numbers behind a tensor, which are not read: their type, the name of their file, and how many."""

    dtype: str
    key: str
    count: int


class _Names(pickle._Unpickler):
    """Reads a pickle with stand-ins for tensors. The one in Python: the one in C can be told to take all memory."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise FileFault("refers to something that is not a tensor")
        storage = _Storage(_type_of(pid[1]), str(pid[2]), _count(pid[4]))
        self.storages[storage.key] = storage
        return storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return name
        allowed: Mapping[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch.storage", "_load_from_bytes"): _stored,
        }
        if (module, name) not in allowed:
            raise FileFault(f"holds more than tensors ({shown(f'{module}.{name}')}), and no code in it is executed",
                            "Save only its state_dict().")
        return allowed[module, name]


def _type_of(storage: Any) -> str:
    if storage not in _STORAGES:
        raise FileFault(f"has tensors of an unknown type ({shown(storage)})")
    return _STORAGES[storage]


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise FileFault("has a tensor whose size is not a number")
    return value


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorEntry:
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise FileFault("has a tensor without a shape")
    shape, steps = tuple(map(_count, size)), tuple(map(_count, stride))
    if len(steps) != len(shape):
        raise FileFault("has a tensor without a shape")
    last = sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if all(shape) else -1
    if _count(offset) + last >= storage.count:
        raise FileFault("has a tensor that is larger than its storage")
    return TensorEntry(storage.dtype, shape)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _stored(data: Any) -> Any:
    """Read the storage inside a plain pickle of a tensor, which is a small file of the old kind."""
    if not isinstance(data, bytes):
        raise FileFault("has a tensor without bytes")
    storage = _old(io.BytesIO(data))
    if not isinstance(storage, _Storage):
        raise FileFault("has a tensor without values")
    return storage


def read_content(path: Path) -> dict[str, Any]:
    """Return what a file of torch holds, with a TensorEntry for every tensor. Raises FileFault."""
    try:
        about = os.stat(path)
        content = _cached(str(path), about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise os_fault(error) from None
    if isinstance(content, FileFault):
        raise FileFault(content.reason, content.remedy, content.absent)
    return dict(content)


def content_of(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, safetensors or torch's, by name. Raises HarnessError in one line."""
    try:
        if path.suffix != SUFFIX:
            return read_content(path)
        header = read_header(path)
        check_computable(header)
        return dict(header.tensors)
    except FileFault as fault:
        raise fault.about(f"the checkpoint {path}").as_error() from None


@lru_cache(maxsize=64)
def _cached(path: str, size: int, mtime_ns: int) -> dict[str, Any] | FileFault:
    try:
        content = _read(path, size)
    except FileFault as fault:
        return fault
    except IsADirectoryError:
        return FileFault("is a folder", "Use the file in it.")
    except OSError:
        raise
    except Exception:  # whatever a broken pickle makes of the stand-ins
        return FileFault("cannot be read as plain tensors: it is truncated, damaged, or of another kind")
    if not isinstance(content, dict):
        return FileFault(f"holds a {type(content).__name__}, not named tensors")
    if not all(isinstance(name, str) for name in content):
        return FileFault("has names that are not texts")
    return content


def _read(path: str, size: int) -> Any:
    with open(path, "rb") as stream:
        start = stream.read(len(LFS_POINTER))
        stream.seek(0)
        if not start:
            raise FileFault("is empty")
        if start == LFS_POINTER:
            raise pointer_fault()
        if start.lstrip().startswith(b"<"):
            raise FileFault("is a web page, not the file itself")
        return _zipped(path) if start[:4] == b"PK\x03\x04" else _old(stream)


def _zipped(path: str) -> Any:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise FileFault("cannot be read as plain tensors: it is truncated, or not a torch file") from None
    with archive:
        members = {info.filename: info.file_size for info in archive.infolist()}
        name = next((name for name in members if name.endswith("/data.pkl") or name == "data.pkl"), None)
        if name is None or members[name] > MAX_PICKLE:
            raise FileFault("cannot be read as plain tensors: it is not a torch file")
        names = _Names(io.BytesIO(archive.read(name)))
        content = names.load()
    root = name.removesuffix("data.pkl")
    for storage in names.storages.values():
        if members.get(f"{root}data/{storage.key}", -1) != math.ceil(storage.count * BITS[storage.dtype] / 8):
            raise FileFault("is truncated: the values of a tensor are missing")
    return content


def _old(stream: BinaryIO) -> Any:
    """Read a file of torch before 1.6, four pickles and then numbers, or one pickle of its own."""
    names = _Names(stream)
    first = names.load()
    if first != OLD_MAGIC:
        return first
    for _ in range(2):  # the protocol and the machine
        _Names(stream).load()
    return _Names(stream).load()
