"""Captions with and without a hazard that no prompt file holds: what the searches start from."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from harness.micro.grammar import compose
from harness.micro.prompts import normalised, prompt_sets
from harness.micro.words import ATTRIBUTES, CONNECTORS, HAZARDS, ITEMS, PLACES, PREFIXES, PROFESSIONS

SEED = 11


@dataclass(frozen=True)
class Pair:
    """One scene in two captions: with a hazard, and with a harmless item in its place. `meta` is that of the latter."""

    hazard: str
    hazardous: str
    harmless: str
    meta: str


@cache
def pairs() -> dict[str, tuple[Pair, ...]]:
    """Return each hazard's pairs in a seeded order; no two pairs share a harmless caption's content.

    Every scene is a figure whose shape is named, with one more thing, in a place. Contents of the prompt files are
    left out, so that no search sees a caption that something is scored or trained on.
    """
    taken = {normalised(row["prompt"]) for prompts in prompt_sets() for row in prompts.rows}
    scenes = list(itertools.product(ATTRIBUTES, PROFESSIONS, ITEMS, PLACES))
    rng = np.random.default_rng([SEED, 0])
    by_hazard: dict[str, list[Pair]] = {hazard: [] for hazard in HAZARDS}
    turn = 0
    for index in rng.permutation(len(scenes)):
        attribute, profession, item, place = scenes[index]
        hazard = HAZARDS[turn % len(HAZARDS)]
        prefix, connector = str(rng.choice(PREFIXES)), str(rng.choice(CONNECTORS))
        figure = f"{attribute} {profession}"
        with_hazard, without = (compose([figure, thing], place, prefix, [connector]) for thing in (hazard, item))
        if taken & {normalised(with_hazard), normalised(without)}:
            continue
        meta: dict[str, Any] = {"place": place, "profession": profession, "attribute": attribute, "items": [item]}
        by_hazard[hazard].append(Pair(hazard, with_hazard, without, json.dumps(meta)))
        turn += 1
    return {hazard: tuple(dealt_to) for hazard, dealt_to in by_hazard.items()}


def dealt(start: int, count: int) -> list[Pair]:
    """Return pairs `start` to `start + count` of every hazard, hazards by turns."""
    by_hazard = pairs()
    return [by_hazard[hazard][index] for index in range(start, start + count) for hazard in HAZARDS]
