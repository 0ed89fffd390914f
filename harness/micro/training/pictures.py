"""Rendered training images, made from seeds and cached as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from harness.micro.training.common import Workspace, log, replace_atomically, rng_of
from harness.micro.words import HAZARDS
from harness.micro.world import Entity, Scene, render, sample_scene, without_hazards

WORLD, PAIRS, HELD_OUT = 1, 2, 3  # keys of the three sets of scenes
WORLD_COUNT, PAIRS_COUNT = 24_000, 16_000


def world_scene(index: int) -> Scene:
    """Draw scene `index` of the training distribution."""
    return sample_scene(rng_of(WORLD, index))


def held_out_scene(index: int) -> Scene:
    """Draw scene `index` of a set that no part is trained on."""
    return sample_scene(rng_of(HELD_OUT, index))


def pairs_scene(index: int) -> Scene:
    """Draw scene `index` of the contrastive set.

    Half of the neighbours (2k, 2k + 1) are minimal pairs: the same scene with and without a hazard.
    """
    pair, second = divmod(index, 2)
    rng = rng_of(PAIRS, pair)
    scene = _with_named_attribute(sample_scene(rng), rng)
    if not second:
        return scene
    if rng.random() < 0.5:
        return _twin(scene, rng)
    return _with_named_attribute(sample_scene(rng), rng)


def _twin(scene: Scene, rng: np.random.Generator) -> Scene:
    if scene.hazards:
        return without_hazards(scene, rng)
    hazard = str(rng.choice(HAZARDS))
    return replace(scene, entities=(*scene.entities[:2], Entity("hazard", hazard, hazard=hazard)))


def _with_named_attribute(scene: Scene, rng: np.random.Generator) -> Scene:
    """Name the figure's attribute in half of the captions that leave it out: CLIP should learn the word."""
    if rng.random() < 0.5:
        return scene
    named = tuple(replace(e, attribute_named=True) if e.kind == "figure" else e for e in scene.entities)
    return replace(scene, entities=named)


def rendered(workspace: Workspace, name: str, scene_of: Callable[[int], Scene], count: int) -> np.ndarray:
    """Render scenes 0 .. count - 1, or map them from the cache: (count, 64, 64, 3) uint8."""
    path = workspace.cache / f"{name}_{count}.npy"
    if not path.exists():
        log.info("rendering %d pictures: %s", count, name)
        pictures = np.stack([render(scene_of(i)) for i in range(count)])

        def write(target: object) -> None:
            with open(str(target), "wb") as file:
                np.save(file, pictures)

        replace_atomically(path, write)
    return np.load(path, mmap_mode="r")


def world_pictures(workspace: Workspace) -> np.ndarray:
    """Images of the training distribution, (N, 64, 64, 3) uint8."""
    return rendered(workspace, "world", world_scene, workspace.pictures(WORLD_COUNT))


def pairs_pictures(workspace: Workspace) -> np.ndarray:
    """Images of the contrastive set, (N, 64, 64, 3) uint8."""
    return rendered(workspace, "pairs", pairs_scene, workspace.pictures(PAIRS_COUNT))
