"""A bounded, uniform choice of feature rows that does not depend on the order in which they come."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Reservoir:
    """Keeps the `size` rows whose seeded hashes are smallest: uniform over all rows, (N, D) float32.

    Each copy of a row has a hash of its own, from the row and how many copies came before: images that are alike, such
    as black ones, are kept in their proportion, and not all or none. The same rows give the same choice in any order,
    from any number of shards, merged in any grouping (but for copies of one row in two parts that both let go of it).
    At most twice `size` rows are held, and a count for each different one that came.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"a reservoir of {size} rows")
        self.size, self.seed = size, seed
        self._rows: list[NDArray[np.float32]] = []
        self._keys: list[NDArray[np.uint64]] = []
        self._seen: Counter[int] = Counter()

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
        joined._seen = self._seen + other._seen
        twice = {content for content in self._seen if content in other._seen}
        done: set[int] = set()
        for part in (self, other):
            for rows, keys in zip(part._rows, part._keys, strict=True):
                contents = [self._hash(row) for row in rows]
                alone = np.array([content not in twice for content in contents], dtype=bool)
                joined._rows.append(rows[alone])
                joined._keys.append(keys[alone])
                for content, row in zip(contents, rows, strict=True):
                    if content in twice and content not in done:
                        joined._copies(content, row)
                        done.add(content)
        joined._trim()
        return joined

    def rows(self) -> NDArray[np.float32]:
        """Return the kept rows in the order of their hashes, which is random; (0, 0) where none came."""
        self._trim()
        return self._rows[0] if self._rows else np.empty((0, 0), np.float32)

    def _take(self, rows: NDArray[np.float32]) -> None:
        keys = []
        for row in rows:
            content = self._hash(row)
            keys.append(self._key(content, self._seen[content]))
            self._seen[content] += 1
        self._rows.append(rows)
        self._keys.append(np.array(keys, dtype=np.uint64))
        if sum(map(len, self._rows)) >= 2 * self.size:
            self._trim()

    def _copies(self, content: int, row: NDArray[np.float32]) -> None:
        """Take all copies of a row that came in two parts, numbered again."""
        keys = np.sort(np.array([self._key(content, i) for i in range(self._seen[content])], dtype=np.uint64))
        self._keys.append(keys[: self.size])
        self._rows.append(np.repeat(row[None], len(self._keys[-1]), axis=0))

    def _hash(self, row: NDArray[np.float32]) -> int:
        return self._digest(row.tobytes())

    def _key(self, content: int, copies_before: int) -> int:
        if not copies_before:
            return content
        return self._digest(content.to_bytes(8, "little") + copies_before.to_bytes(8, "little"))

    def _digest(self, data: bytes) -> int:
        salt = self.seed.to_bytes(16, "little", signed=True)
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, salt=salt).digest(), "little")

    def _trim(self) -> None:
        if self._rows:
            rows, keys = np.concatenate(self._rows), np.concatenate(self._keys)
            chosen = np.argsort(keys, kind="stable")[: self.size]
            self._rows, self._keys = [rows[chosen]], [keys[chosen]]


def sample(features: ArrayLike, size: int, seed: int) -> NDArray[np.float32]:
    """Return at most `size` rows of (N, D) features, chosen as a reservoir of this seed does."""
    return Reservoir(size, seed).add(features).rows()
