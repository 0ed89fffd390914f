"""Reads Q16's two learned text embeddings: safetensors, npz, npy, or the published pickle without running it."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.arrays import parse_array, read_arrays
from harness.lib.reading import UnreadableFileError, read_bytes
from harness.lib.tensor_headers import header_of

TENSOR = "prompts"
TEMPERATURE = 100.0  # similarity = 100 x cosine, whatever the backbone's own logit scale
_Found = TypeVar("_Found")

# All that a pickled NumPy array needs; NumPy 2 renamed numpy.core.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def read_prompts(file: Path) -> NDArray[np.float32]:
    """Return the embeddings (2, D) float32: row 0 appropriate, row 1 inappropriate."""
    array = np.asarray(_read(file))
    if array.ndim != 2 or array.shape[0] != 2 or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InvalidValueError(f"{file} holds {array.dtype} {array.shape}, not two finite embeddings (2, D).")
    return array.astype(np.float32)


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        if TENSOR not in header_of(file).tensors:
            raise InvalidValueError(f"{file} has no tensor named {TENSOR}.")
        return load_file(file)[TENSOR]
    if file.suffix == ".npz":
        return _needed(read_arrays(file, (TENSOR,)), file)[TENSOR]
    if file.suffix == ".npy":
        try:
            return parse_array(_needed(read_bytes(file), file))
        except ValueError as error:
            raise UnreadableFileError(file, str(error)) from None
    try:
        return _ArrayUnpickler(BytesIO(_needed(read_bytes(file), file))).load()
    except InvalidValueError:
        raise
    except Exception as error:  # pickle and numpy raise almost anything on damaged files
        raise UnreadableFileError(file, f"it is not a pickled array ({type(error).__name__})") from None


def _needed(prompts: _Found | None, file: Path) -> _Found:
    if prompts is None:
        raise MissingResourceError(f"no file at {file}.")
    return prompts


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and nothing else."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise InvalidValueError(f"the pickle asks for {module}.{name}: it is not a plain NumPy array.")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
