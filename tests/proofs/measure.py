"""How evaluators are held against references: images, differences and speeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records import ScoreItem
from tests.support.evaluator_fixtures import item, picture

ROUNDS = 3
IMAGES = 32


@dataclass(frozen=True)
class Proof:
    """One row: what was compared with what, by which weights, the largest difference, and our speed over theirs."""

    reference: str
    weights: str
    agreement: str
    speed: str = "—"


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def faster(reference: Callable[[], object], own: Callable[[], object]) -> str:
    """Return how many times as fast ours is."""
    reference(), own()
    pairs = [(seconds(reference), seconds(own)) for _ in range(ROUNDS)]
    return f"{min(a for a, _ in pairs) / min(b for _, b in pairs):.1f} x"


def largest(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> str:
    difference = float(np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).max())
    return f"largest difference {difference:.0e} of {np.size(np.asarray(a))} numbers"


def ready(evaluator: Any) -> Any:
    missing = evaluator.missing()
    assert missing is None, missing
    evaluator.setup("cpu")
    return evaluator


def items(count: int = IMAGES, size: tuple[int, int] = (64, 64)) -> list[ScoreItem]:
    words = ("a tree and a house", "a teacher", "a pilot and a ball", "a flower at night")
    return [item(i, picture(i, size), prompt=words[i % 4]) for i in range(count)]


def rendered(count: int) -> tuple[list[np.ndarray], list[Any]]:
    """Render scenes that no part was trained on."""
    from harness.micro.world import render, sample_scene

    rng = np.random.default_rng(20_000)
    scenes = [sample_scene(rng) for _ in range(count)]
    return [render(scene) for scene in scenes], scenes
