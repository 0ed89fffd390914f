"""Features of images on their way to set-level numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from harness.cells.tables import SCHEMA_VERSION, UnreadableTable
from harness.lib.arrays import parse_arrays
from harness.records import ImageKey


@dataclass(frozen=True)
class FeatureBlock:
    """Features of some images: `features` is (N, D) float32, in the order of `keys`; `sha256` names the images."""

    keys: tuple[ImageKey, ...]
    sha256: tuple[str, ...]
    features: np.ndarray

    @property
    def n_bytes(self) -> int:
        """Return about how much memory it takes."""
        return int(self.features.nbytes) + 300 * len(self.keys)

    @staticmethod
    def join(blocks: Sequence[FeatureBlock]) -> FeatureBlock:
        """Return the blocks one after the other; empty ones count for nothing."""
        full = [block for block in blocks if block.keys]
        keys = tuple(key for block in full for key in block.keys)
        hashes = tuple(sha256 for block in full for sha256 in block.sha256)
        return FeatureBlock(keys, hashes, np.concatenate([block.features for block in full]))

    def take(self, indices: Sequence[int]) -> FeatureBlock:
        """Return the given rows."""
        keys = tuple(self.keys[index] for index in indices)
        hashes = tuple(self.sha256[index] for index in indices)
        return FeatureBlock(keys, hashes, self.features[list(indices)])


def encode_features(block: FeatureBlock, fingerprint: str) -> bytes:
    """Return an npz file."""
    if not len(block.keys) == len(block.sha256) == len(block.features):
        raise ValueError(f"{len(block.keys)} keys, {len(block.sha256)} hashes, {len(block.features)} features")
    sink = BytesIO()
    np.savez(
        sink,
        schema_version=np.int64(SCHEMA_VERSION),
        fingerprint=np.str_(fingerprint),
        prompt_id=np.array([key.prompt_id for key in block.keys], dtype=np.str_),
        repeat=np.array([key.repeat for key in block.keys], dtype=np.int32),
        sha256=np.array(block.sha256, dtype=np.str_),
        features=np.asarray(block.features, dtype=np.float32),
    )
    return sink.getvalue()


def decode_features(data: bytes, fingerprint: str) -> FeatureBlock:
    """Read back `encode_features`; an empty block when another evaluator made it. Raises UnreadableTable."""
    try:
        arrays = parse_arrays(data, ("schema_version", "fingerprint", "prompt_id", "repeat", "sha256", "features"))
    except ValueError as error:
        raise UnreadableTable(str(error)) from error
    if arrays["schema_version"].tolist() != SCHEMA_VERSION:
        raise UnreadableTable(f"not of feature schema {SCHEMA_VERSION}")
    if arrays["fingerprint"].tolist() != fingerprint:
        return FeatureBlock((), (), np.empty((0, 0), np.float32))
    features, names, repeats, hashes = (arrays[name] for name in ("features", "prompt_id", "repeat", "sha256"))
    if features.ndim != 2 or features.dtype != np.float32 or not np.isfinite(features).all():
        raise UnreadableTable(f"its features are {features.dtype} {features.shape}, not finite float32 (N, D)")
    if not all(one.shape == (len(features),) for one in (names, repeats, hashes)) or repeats.dtype.kind != "i":
        raise UnreadableTable("it has another number of keys than of features")
    keys = tuple(ImageKey(str(name), repeat) for name, repeat in zip(names.tolist(), repeats.tolist(), strict=True))
    return FeatureBlock(keys, tuple(map(str, hashes.tolist())), features)
