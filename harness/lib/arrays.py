"""Arrays from npz files that others may have written: no pickles, and never more memory than the file accounts for."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.lib.reading import UnreadableFileError, read_bytes

MAX_BYTES = 8 * 2**30
INFLATION = 20  # times the file's size that compressed arrays may take


def parse_arrays(data: bytes, names: Sequence[str]) -> dict[str, NDArray]:
    """Return the named arrays of an npz file's bytes. Raises ValueError, saying in a few words what is wrong."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            absent = [name for name in names if name not in infos]
            if absent:
                raise ValueError(f"it has no array {', '.join(absent)}")
            if sum(infos[name].file_size for name in names) > min(MAX_BYTES, 2**26 + INFLATION * len(data)):
                raise ValueError("its arrays are far larger than the file")
            return {name: _array(archive.read(infos[name]), name) for name in names}
    except ValueError:
        raise
    except Exception as error:  # zipfile and numpy raise almost anything on damaged files
        raise ValueError(f"it is not a complete npz file ({type(error).__name__}: {error})") from None


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray] | None:
    """Return the named arrays of an npz file, None if there is no file. Raises UnreadableFileError."""
    data = read_bytes(path, MAX_BYTES)
    if data is None:
        return None
    try:
        return parse_arrays(data, names)
    except ValueError as error:
        raise UnreadableFileError(path, str(error)) from None


def parse_array(data: bytes, name: str = "array") -> NDArray:
    """Return the one array of an npy file's bytes. Raises ValueError."""
    try:
        return _array(data, name)
    except ValueError:
        raise
    except Exception as error:  # as above
        raise ValueError(f"it is not a complete npy file ({type(error).__name__}: {error})") from None


def _array(data: bytes, name: str) -> NDArray:
    source = BytesIO(data)
    version = np.lib.format.read_magic(source)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(source)
    rest = len(data) - source.tell()
    count = 1
    for length in shape:
        count *= int(length)
    if dtype.hasobject or count < 0 or count * dtype.itemsize != rest:
        raise ValueError(f"array {name} is not what its header says")
    array = np.frombuffer(data, dtype, count, source.tell()) if rest else np.empty(count, dtype)
    return array.reshape(shape, order="F" if fortran else "C").copy()
