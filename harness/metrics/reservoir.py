"""A bounded, uniform choice of feature rows that does not depend on the order in which they come."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Reservoir:
    """Keeps the `size` rows whose seeded hashes are smallest: uniform over distinct rows, (N, D) float32.

    The same rows give the same choice in any order, from any number of shards, merged in any grouping. At most
    twice `size` rows are held.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"a reservoir of {size} rows")
        self.size, self.seed = size, seed
        self._rows: list[NDArray[np.float32]] = []
        self._keys: list[NDArray[np.uint64]] = []

    def add(self, features: ArrayLike) -> Reservoir:
        """Offer (B, D) rows; return self."""
        rows = np.ascontiguousarray(features, dtype=np.float32)
        for start in range(0, len(rows), self.size):
            self._take(rows[start : start + self.size])
        return self

    def merge(self, other: Reservoir) -> Reservoir:
        """Return the reservoir of both sets together."""
        if (other.size, other.seed) != (self.size, self.seed):
            raise ValueError("reservoirs of another size or seed cannot be merged")
        joined = Reservoir(self.size, self.seed)
        joined._rows, joined._keys = [*self._rows, *other._rows], [*self._keys, *other._keys]
        joined._trim()
        return joined

    def rows(self) -> NDArray[np.float32]:
        """Return the kept rows in the order of their hashes, which is random; (0, 0) where none came."""
        self._trim()
        return self._rows[0] if self._rows else np.empty((0, 0), np.float32)

    def _take(self, rows: NDArray[np.float32]) -> None:
        self._rows.append(rows)
        self._keys.append(np.array([self._hash(row) for row in rows], dtype=np.uint64))
        if sum(map(len, self._rows)) >= 2 * self.size:
            self._trim()

    def _hash(self, row: NDArray[np.float32]) -> int:
        salt = self.seed.to_bytes(16, "little", signed=True)
        return int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8, salt=salt).digest(), "little")

    def _trim(self) -> None:
        if self._rows:
            rows, keys = np.concatenate(self._rows), np.concatenate(self._keys)
            chosen = np.argsort(keys, kind="stable")[: self.size]
            self._rows, self._keys = [rows[chosen]], [keys[chosen]]


def sample(features: ArrayLike, size: int, seed: int) -> NDArray[np.float32]:
    """Return at most `size` rows of (N, D) features, chosen as a reservoir of this seed does."""
    return Reservoir(size, seed).add(features).rows()
