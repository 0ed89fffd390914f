"""Set-level numbers: FID and KID from features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.metrics.frechet import frechet_distance
from harness.metrics.kernel import kernel_distance
from harness.metrics.moments import Moments
from harness.records import Metric

FID_MIN_IMAGES = 2049  # with fewer, the covariance of 2048 features is singular and FID is far too high
KID_SUBSET = 1000
KID_MAX_ROWS = 10_000  # rows kept for KID, drawn at random: bounds memory


@dataclass(frozen=True)
class ReferenceSet:
    """Features of the reference images, (N, D) float32, named by the hash of their bytes."""

    name: str
    features: NDArray[np.float32]

    @classmethod
    def load(cls, name: str, file: str | Path) -> ReferenceSet:
        """Read an npz file with `features`."""
        with np.load(file) as data:
            return cls(name, np.ascontiguousarray(data["features"], dtype=np.float32))

    @property
    def sha256(self) -> str:
        header = str(self.features.shape).encode()
        return hashlib.sha256(header + np.ascontiguousarray(self.features).tobytes()).hexdigest()


def set_metrics(
    shards: Iterable[NDArray[np.float32]], reference: ReferenceSet, extractor: str, seed: int, n_unknown: int = 0
) -> dict[str, Metric]:
    """Return `fid` and `kid` of features, given shard by shard, against the reference.

    `n_unknown` counts images without features. FID below 2,049 images is flagged in the note.
    """
    moments = Moments.empty(reference.features.shape[1])
    kept = _Reservoir(KID_MAX_ROWS, seed)
    for shard in shards:
        if len(shard):
            moments.update(shard)
            kept.add(shard)
    fid = _fid(moments, reference, n_unknown, extractor)
    if fid.value is None:
        return {"fid": fid, "kid": fid}
    where = _where(extractor, reference)
    return {"fid": fid, "kid": _kid(kept.rows(), moments.n, reference, seed, n_unknown, where)}


def frechet_metric(
    shards: Iterable[NDArray[np.float32]], reference: ReferenceSet, extractor: str, n_unknown: int = 0
) -> Metric:
    """Return the Frechet distance alone of features, given shard by shard, to the reference."""
    moments = Moments.empty(reference.features.shape[1])
    for shard in shards:
        moments.update(shard)
    return _fid(moments, reference, n_unknown, extractor)


def no_metric(note: str) -> Metric:
    """Return a distance that could not be measured, and why."""
    return Metric(None, None, None, 0, 0, False, note=note)


def _where(extractor: str, reference: ReferenceSet) -> str:
    return f"{extractor} features; reference {reference.name} {reference.sha256[:12]} (n={len(reference.features)})"


def _fid(moments: Moments, reference: ReferenceSet, n_unknown: int, extractor: str) -> Metric:
    where = _where(extractor, reference)
    if moments.n < 2 or len(reference.features) < 2:
        return Metric(None, None, None, moments.n, n_unknown, False, note=f"fewer than two images; {where}")
    other = Moments.of(reference.features)
    value = frechet_distance(moments.mean(), moments.covariance(), other.mean(), other.covariance())
    smallest = min(moments.n, other.n)
    if smallest < FID_MIN_IMAGES:
        where = f"only {smallest} images, below {FID_MIN_IMAGES}: biased upward, compare equal n only; {where}"
    return Metric(value, None, None, moments.n, n_unknown, False, note=where)


def _kid(
    rows: NDArray[np.float32], n: int, reference: ReferenceSet, seed: int, n_unknown: int, where: str
) -> Metric:
    # Half of the smaller set at most: subsets that are the whole set would have no spread.
    size = min(KID_SUBSET, max(2, min(len(rows), len(reference.features)) // 2))
    found = kernel_distance(rows, reference.features, seed, subset_size=size)
    note = f"sd over 100 subsets of {size} {found.sd:.4g}; {where}"
    return Metric(found.mean, None, None, n, n_unknown, False, note=note)


class _Reservoir:
    """Keeps a uniform random choice of at most `size` rows of a stream."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._rng = np.random.default_rng(seed)
        self._rows: list[NDArray[np.float32]] = []
        self._keys: list[NDArray[np.float64]] = []

    def add(self, rows: NDArray[np.float32]) -> None:
        self._rows.append(np.asarray(rows))
        self._keys.append(self._rng.random(len(rows)))
        if sum(map(len, self._rows)) > 2 * self.size:
            self._trim()

    def rows(self) -> NDArray[np.float32]:
        self._trim()
        return self._rows[0]

    def _trim(self) -> None:
        rows, keys = np.concatenate(self._rows), np.concatenate(self._keys)
        chosen = np.sort(np.argsort(keys)[: self.size])
        self._rows, self._keys = [rows[chosen]], [keys[chosen]]
