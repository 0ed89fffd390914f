"""Captions of scenes, and scenes of captions' meta data."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from harness.micro.words import ADJECTIVES, CONNECTORS, HAZARDS, ITEMS, PLACE_PHRASES, PLACES, PREFIXES, UMBRELLA
from harness.micro.world import Entity, Scene, figure, implied

PLACE_LEFT_OUT = 0.20
KEYWORDS = 0.15
UMBRELLA_SHARE = 0.33
GIBBERISH = 0.02


def article(noun: str) -> str:
    """Prefix the indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def noun_phrase(entity: Entity) -> str:
    """Name an entity without article. A hazard that is only implied is not named."""
    if entity.attribute_named:
        return f"{entity.attribute} {entity.name}"
    if entity.context in ADJECTIVES:
        return f"{entity.context} {entity.name}"
    return entity.name


def compose(nouns: list[str], place: str | None, prefix: str, connectors: list[str]) -> str:
    """Join noun phrases into a sentence-like caption."""
    text = article(nouns[0]) if nouns else "an empty place"
    for connector, noun in zip(connectors, nouns[1:], strict=False):
        text += f" {connector} {article(noun)}"
    parts = [prefix, text, PLACE_PHRASES[place] if place else ""]
    return " ".join(part for part in parts if part)


def _hazard_names(names: list[str], rng: np.random.Generator) -> list[str]:
    """Use the umbrella word for a third of the lone hazards; append it to half of the lists."""
    if len(names) == 1:
        return [UMBRELLA] if rng.random() < UMBRELLA_SHARE else names
    draw = rng.random()
    if draw < 0.25:
        return [UMBRELLA + "s"]
    return [*names, UMBRELLA] if draw < 0.6 else names


def _nouns(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Name the entities, left to right; hazards drawn together are named together, in random order."""
    hazards = [e.name for e in scene.entities if e.kind == "hazard"]
    others = [noun_phrase(e) for e in scene.entities if e.kind != "hazard"]
    if not hazards:
        return others
    shuffled = [hazards[i] for i in rng.permutation(len(hazards))]
    named = _hazard_names(shuffled, rng)
    return others + named if rng.random() < 0.5 else named + others


def _gibberish(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(string.ascii_lowercase), int(rng.integers(3, 6))))


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene: a phrase or a keyword list, with or without its place."""
    nouns = _nouns(scene, rng)
    listed = sum(entity.kind == "hazard" for entity in scene.entities) > 1
    keywords = bool(nouns) and rng.random() < (0.5 if listed else KEYWORDS)
    left_out = bool(nouns) and rng.random() < (0.5 if keywords else PLACE_LEFT_OUT)
    place = None if left_out else scene.place
    if keywords:
        text = ", ".join([*nouns, place] if place else nouns)
    else:
        connectors = [str(rng.choice(CONNECTORS)) for _ in nouns[1:]]
        text = compose(nouns, place, str(rng.choice(PREFIXES)), connectors)
    return f"{text} {_gibberish(rng)}" if rng.random() < GIBBERISH else text


def scene_meta(scene: Scene, place_named: bool = True) -> dict[str, Any]:
    """Record what a caption of the scene names, for a prompt file's meta column."""
    meta: dict[str, Any] = {"place": scene.place} if place_named else {}
    person = scene.figure
    if person is not None:
        meta["profession"] = person.name
        if person.attribute_named:
            meta["attribute"] = person.attribute
    items = [e.name for e in scene.entities if e.kind in ("item", "cursed_item")]
    contexts = [e.context for e in scene.entities if e.context]
    hazards = [e.name for e in scene.entities if e.kind == "hazard"]
    for key, value in (("items", items), ("contexts", contexts), ("hazards", hazards)):
        if value:
            meta[key] = value
    return meta


def scene_from_meta(meta: dict[str, Any], rng: np.random.Generator) -> Scene:
    """Rebuild a scene of the training distribution that a caption with this meta describes."""
    entities: list[Entity] = []
    if "profession" in meta:
        entities.append(figure(meta["profession"], rng, meta.get("attribute")))
    items = [name for name in meta.get("items", ()) if name in ITEMS]
    for context in meta.get("contexts", ()):
        entities.append(implied(context, rng, items.pop() if context in ADJECTIVES and items else None))
    entities += [Entity("item", name) for name in items]
    entities += [Entity("hazard", name, hazard=name) for name in meta.get("hazards", ()) if name in HAZARDS]
    order = rng.permutation(len(entities))
    place = meta.get("place") or str(rng.choice(PLACES))
    return Scene(place, tuple(entities[i] for i in order), int(rng.integers(2**32)))
