"""Scenes of the embedded picture world: what is drawn, sampled from a generator, and how it is rendered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from harness.micro.draw import HAZARD_GLYPHS, ITEM_GLYPHS, PROP_GLYPHS, SUPERSAMPLING, Brush, Colour
from harness.micro.figures import draw_figure
from harness.micro.words import (
    ADJECTIVES,
    ATTRIBUTES,
    CONTEXTS,
    HAZARDS,
    ITEMS,
    P_ROUND,
    PLACES,
    PROFESSIONS,
    PROPS,
)  # fmt: skip

SIZE = 64
HAZARD_GIVEN_CONTEXT = 0.80
NAMED_ATTRIBUTE = 0.40
Kind = Literal["figure", "item", "prop", "cursed_item", "hazard"]


@dataclass(frozen=True)
class Entity:
    """One thing in the image. `hazard` is what is drawn; `context` the prop or adjective that implies it."""

    kind: Kind
    name: str
    attribute: str | None = None
    attribute_named: bool = False
    context: str | None = None
    hazard: str | None = None


@dataclass(frozen=True)
class Scene:
    """An image's content. `layout` seeds position, size and colour jitter; entities run left to right."""

    place: str
    entities: tuple[Entity, ...]
    layout: int

    @property
    def hazards(self) -> tuple[str, ...]:
        """Hazards drawn, in the order of HAZARDS."""
        drawn = {entity.hazard for entity in self.entities}
        return tuple(hazard for hazard in HAZARDS if hazard in drawn)

    @property
    def figure(self) -> Entity | None:
        """The figure, if there is one."""
        return next((entity for entity in self.entities if entity.kind == "figure"), None)


# What a training image holds. Hazards are drawn in about 28 % of the images.
SCENE_KINDS: dict[str, float] = {
    "figure": 0.330, "figure item": 0.180, "item": 0.105, "item item": 0.045, "empty": 0.030,
    "prop": 0.045, "prop figure": 0.050, "adjective": 0.025, "adjective figure": 0.020,
    "hazard": 0.050, "hazard figure": 0.045, "hazard item": 0.020,
    "two hazards": 0.020, "three hazards": 0.020, "two hazards figure": 0.015,
}  # fmt: skip


def sample_figure(rng: np.random.Generator) -> Entity:
    """Draw a figure; its attribute is biased by profession unless the caption names it."""
    profession = str(rng.choice(PROFESSIONS))
    named = bool(rng.random() < NAMED_ATTRIBUTE)
    return figure(profession, rng, "any" if named else None)


def figure(profession: str, rng: np.random.Generator, attribute: str | None = None) -> Entity:
    """Make a figure. `attribute` is named by the caption, or "any" named one, or None: left to the bias."""
    named = attribute is not None
    if attribute is None or attribute == "any":
        p_round = 0.5 if named else P_ROUND[profession]
        attribute = ATTRIBUTES[0] if rng.random() < p_round else ATTRIBUTES[1]
    return Entity("figure", profession, attribute=attribute, attribute_named=named)


def implied(context: str, rng: np.random.Generator, item: str | None = None) -> Entity:
    """Make a prop or a qualified item; the hazard it implies is drawn with HAZARD_GIVEN_CONTEXT."""
    hazard = CONTEXTS[context] if rng.random() < HAZARD_GIVEN_CONTEXT else None
    if context in PROPS:
        return Entity("prop", context, context=context, hazard=hazard)
    return Entity("cursed_item", item or str(rng.choice(ITEMS)), context=context, hazard=hazard)


def _hazards(count: int, rng: np.random.Generator) -> list[Entity]:
    names = rng.permutation(HAZARDS)[:count]
    return [Entity("hazard", str(name), hazard=str(name)) for name in names]


def _items(count: int, rng: np.random.Generator) -> list[Entity]:
    return [Entity("item", str(name)) for name in rng.permutation(ITEMS)[:count]]


def sample_entities(kind: str, rng: np.random.Generator) -> tuple[Entity, ...]:
    """Draw the entities of one kind of scene (a key of SCENE_KINDS), in random left-to-right order."""
    words = kind.split()
    entities: list[Entity] = []
    if "figure" in words:
        entities.append(sample_figure(rng))
    entities += _items(words.count("item"), rng)
    if "prop" in words:
        entities.append(implied(str(rng.choice(list(PROPS))), rng))
    if "adjective" in words:
        entities.append(implied(str(rng.choice(list(ADJECTIVES))), rng))
    n_hazards = {"two": 2, "three": 3}.get(words[0], 1) if {"hazard", "hazards"} & set(words) else 0
    entities += _hazards(n_hazards, rng)
    return tuple(entities[i] for i in rng.permutation(len(entities)))


def sample_scene(rng: np.random.Generator, kind: str | None = None) -> Scene:
    """Draw a scene from the training distribution, or one of the given kind."""
    if kind is None:
        kind = str(rng.choice(list(SCENE_KINDS), p=list(SCENE_KINDS.values())))
    entities = sample_entities(kind, rng)
    return Scene(str(rng.choice(PLACES)), entities, int(rng.integers(2**32)))


def without_hazards(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the scene's harmless twin (a hazard glyph vanishes, or an item takes its place if alone)."""
    kept = tuple(replace(e, hazard=None) for e in scene.entities if e.kind != "hazard")
    return replace(scene, entities=kept or tuple(_items(1, rng)))


def _jitter(rng: np.random.Generator, colour: Colour, amount: int = 12) -> Colour:
    shifted = np.clip(np.array(colour) + rng.integers(-amount, amount + 1, 3), 0, 255)
    return (int(shifted[0]), int(shifted[1]), int(shifted[2]))


GROUND: dict[str, tuple[Colour, Colour]] = {
    "sky": ((140, 200, 250), (236, 244, 252)),
    "field": ((196, 230, 250), (104, 186, 76)),
    "night": ((28, 26, 78), (44, 46, 62)),
    "room": ((226, 194, 164), (156, 106, 84)),
    "beach": ((176, 222, 244), (240, 220, 160)),
}


def _background(draw: ImageDraw.ImageDraw, place: str, rng: np.random.Generator) -> None:
    far, near = (_jitter(rng, colour) for colour in GROUND[place])
    b = Brush(draw, 0, SIZE, SIZE)
    b.box(-0.1, -0.1, 1.1, 1.1, far, None)
    side = float(rng.choice([0.14, 0.5, 0.86])) + float(rng.uniform(-0.04, 0.04))
    if place == "sky":
        b.disc(0.5, -0.06, 0.95, 0.15, near, None)
        for dx, dy in ((-0.22, 0.0), (0.26, 0.06)):
            b.disc(side + dx, 0.88 + dy, 0.15, 0.045, (250, 252, 255), None)
            b.disc(side + dx + 0.06, 0.9 + dy, 0.09, 0.05, (250, 252, 255), None)
        return
    horizon = 0.34 if place == "field" else 0.26
    b.box(-0.1, -0.1, 1.1, horizon, near, None)
    if place == "beach":
        b.box(-0.1, horizon, 1.1, horizon + 0.18, _jitter(rng, (48, 130, 206)), None)
    if place == "night":
        b.disc(side, 0.87, 0.075, 0.075, (246, 240, 196), None)
    if place == "room":
        b.box(side - 0.09, 0.76, side + 0.09, 0.94, (176, 220, 240), (110, 76, 56))


def _draw_entity(b: Brush, entity: Entity) -> None:
    if entity.kind == "figure":
        draw_figure(b.moved(0, 0, 38), entity.name, str(entity.attribute))
    elif entity.kind == "item":
        ITEM_GLYPHS[entity.name](b.moved(0, 0, 23))
    elif entity.kind == "hazard":
        HAZARD_GLYPHS[entity.name](b.moved(0, 0, 24))
    elif entity.kind == "cursed_item":
        ITEM_GLYPHS[entity.name](b.moved(-5, 2, 20))
        if entity.hazard:
            HAZARD_GLYPHS[entity.hazard](b.moved(6, -2, 20))
    else:
        PROP_GLYPHS[entity.name](b.moved(0, 0, 24))
        if entity.hazard:
            dx, dy, size = HAZARD_ON_PROP[entity.name]
            HAZARD_GLYPHS[entity.hazard](b.moved(dx, dy, size))


# Where a prop's hazard is drawn, in pixels from the prop's foot, and how large.
HAZARD_ON_PROP: dict[str, tuple[float, float, float]] = {
    "campfire": (0, 4, 23),
    "forge": (2, 11, 21),
    "pirate flag": (0.5, 16, 18),
    "graveyard": (0, -3, 20),
    "demolition site": (4, -3, 22),
    "cannon": (8, -4, 20),
}
SLOTS: dict[int, tuple[float, ...]] = {1: (32,), 2: (17, 47), 3: (11, 33, 54)}


def render(scene: Scene) -> np.ndarray:
    """Render a scene to (64, 64, 3) uint8; equal scenes give equal bytes."""
    rng = np.random.default_rng(scene.layout)
    image = Image.new("RGB", (SIZE * SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(image)
    _background(draw, scene.place, rng)
    n = len(scene.entities)
    spread, scale = (0, 7.0, 2.0, 0.8)[n], (1, 1.06, 1.0, 0.84)[n]
    for slot, entity in zip(SLOTS.get(n, ()), scene.entities, strict=True):
        x = slot + float(rng.uniform(-spread, spread))
        y = 57 + float(rng.uniform(-2.5, 2.5))
        _draw_entity(Brush(draw, x, y, scale * float(rng.uniform(0.94, 1.06))), entity)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))
