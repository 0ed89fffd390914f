"""What other cells' pages need of an image: found by its key, in 40 bytes an image, kept on disk between sessions."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.lib.arrays import parse_arrays
from harness.records import ImageRow
from harness.view.columns import SHOWN_HASH, STATUS, Columns

FORMAT = 2
_ARRAYS = ("keys", "place", "seeds", "status", "hashes", "veiled", "letters")


@dataclass(frozen=True)
class Lookup:
    """The images of a cell by the hash of their key, in its order: `place` is where each is in the cell's columns.

    `status` is (n), a letter each; `letters` is (n, judges), a letter each; `version` is that of the columns.
    """

    keys: np.ndarray
    place: np.ndarray
    seeds: np.ndarray
    status: np.ndarray
    hashes: np.ndarray
    veiled: np.ndarray
    letters: np.ndarray
    judges: tuple[str, ...]
    version: str

    @classmethod
    def of(cls, columns: Columns) -> Lookup:
        """Make it of a cell's columns."""
        keys = np.array([key_hash(row) for row in columns.rows], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        judges = [(name, one) for name, one in columns.judges.items() if one.is_judge]
        n = len(columns.rows)
        letters = [np.frombuffer(one.verdicts.encode(), dtype="S1") for _, one in judges]
        return cls(
            keys[order], order.astype(np.int32),
            np.array([row.seed for row in columns.rows], dtype=np.uint64),
            np.array([STATUS[row.status] for row in columns.rows], dtype="S1"),
            np.array([columns.shown_hash(i) for i in range(n)], dtype=f"S{SHOWN_HASH}"),
            np.frombuffer(columns.veiled.encode(), dtype="S1") == b"1",
            np.stack(letters, axis=1) if letters else np.empty((n, 0), dtype="S1"),
            tuple(name for name, _ in judges), columns.version,
        )  # fmt: skip

    def find(self, row: ImageRow) -> list[Any] | None:
        """Return `[place, hash, veiled, letters, status, same seed]` of the image of a prompt and repeat, or None."""
        key = np.uint64(key_hash(row))
        at = int(np.searchsorted(self.keys, key))
        if at >= len(self.keys) or self.keys[at] != key:
            return None
        i = int(self.place[at])
        letters = b"".join(self.letters[i].tolist()).decode()
        return [i, self.hashes[i].decode(), int(self.veiled[i]), letters, self.status[i].decode(),
                int(int(self.seeds[i]) == row.seed)]  # fmt: skip

    def to_bytes(self, stamp: str) -> bytes:
        """Return it as a file's content; `stamp` says of which files it was made."""
        out = io.BytesIO()
        np.savez(out, keys=self.keys, place=self.place, seeds=self.seeds, status=self.status, hashes=self.hashes,
                 veiled=self.veiled, letters=self.letters,
                 about=np.array([str(FORMAT), stamp, self.version, *self.judges]))  # fmt: skip
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, stamp: str) -> Lookup | None:
        """Read it back; None if it was made of other files, or is none."""
        try:
            kept = parse_arrays(data, (*_ARRAYS, "about"))
            known, made_of, version, *judges = kept["about"].tolist()
        except ValueError:
            return None
        if (known, made_of) != (str(FORMAT), stamp):
            return None
        keys, place, seeds, status, hashes, veiled, letters = (kept[name] for name in _ARRAYS)
        return cls(keys, place, seeds, status, hashes, veiled, letters, tuple(judges), version)


def key_hash(row: ImageRow) -> int:
    """Return 8 bytes of a hash of the image's name and prompt; two of 30,000 names share them once in 10^10 cells."""
    name = f"{row.repeat} {row.prompt_id} {row.prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
