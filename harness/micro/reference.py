"""Reference renders of prompt rows: what a perfect model could have drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.bench import load_prompts
from harness.bench.references import ReferenceImages
from harness.lib.reading import parse_json
from harness.micro.grammar import scene_from_meta
from harness.micro.world import render
from harness.setting_types import Seed, Text


def render_reference(rows: Iterable[Any], seed: int = 0) -> Iterator[np.ndarray]:
    """Render one (64, 64, 3) uint8 image per prompt row; each depends on `seed` and its own row alone.

    A row is a mapping or an object with `prompt_id` and `meta` (a dict, or a JSON object as a string).
    """
    for row in rows:
        prompt_id, meta = _field(row, "prompt_id"), _field(row, "meta")
        content = parse_json(meta or "{}") if isinstance(meta, str) else dict(meta or {})
        key = hashlib.sha256(f"{seed}|{prompt_id}".encode()).digest()
        yield render(scene_from_meta(content, np.random.default_rng(list(key))))


@dataclass(frozen=True)
class CaptionRenders(ReferenceImages):
    """The reference set of a bench: one render for every prompt of a card, made on demand."""

    card: Text
    seed: Seed = 0

    def images(self) -> Iterator[np.ndarray]:
        """Yield (64, 64, 3) uint8 images in the card's order."""
        prompts = load_prompts({"name": self.card})
        assert prompts is not None
        return render_reference(prompts.rows, self.seed)


def _field(row: Any, name: str) -> Any:
    return row[name] if isinstance(row, Mapping) else getattr(row, name)
