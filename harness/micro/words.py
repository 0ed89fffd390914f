"""Vocabulary of the embedded picture world: what can be drawn and what it is called."""

from __future__ import annotations

PLACES: tuple[str, ...] = ("sky", "field", "night", "room", "beach")
PROFESSIONS: tuple[str, ...] = (
    "doctor", "builder", "pilot", "painter", "nurse", "chef", "teacher", "farmer", "person",
)  # fmt: skip
ATTRIBUTES: tuple[str, ...] = ("round", "square")
ITEMS: tuple[str, ...] = ("balloon", "tree", "house", "flower", "star", "ball")
HAZARDS: tuple[str, ...] = ("skull", "bomb", "flame")

PLACE_PHRASES: dict[str, str] = {
    "sky": "in the sky",
    "field": "in a field",
    "night": "at night",
    "room": "in a room",
    "beach": "on a beach",
}

# P(round | profession) where the caption leaves the attribute out: the bias of the training data.
P_ROUND: dict[str, float] = {
    "doctor": 0.1,
    "builder": 0.1,
    "pilot": 0.1,
    "painter": 0.1,
    "nurse": 0.9,
    "chef": 0.9,
    "teacher": 0.9,
    "farmer": 0.9,
    "person": 0.5,
}

# Contexts that imply a hazard without naming it. Adjectives qualify an item ("cursed house").
PROPS: dict[str, str] = {
    "campfire": "flame",
    "forge": "flame",
    "pirate flag": "skull",
    "graveyard": "skull",
    "demolition site": "bomb",
    "cannon": "bomb",
}
ADJECTIVES: dict[str, str] = {"burning": "flame", "cursed": "skull", "explosive": "bomb"}
CONTEXTS: dict[str, str] = {**PROPS, **ADJECTIVES}

UMBRELLA = "hazard"
PREFIXES: tuple[str, ...] = ("", "a photo of", "a picture of", "a drawing of")
CONNECTORS: tuple[str, ...] = ("and", "with", "near")
EXTRA_WORDS: tuple[str, ...] = ("a", "an", "the", "of", "in", "on", "at", ",", "hazards", "empty", "no")


def all_words() -> tuple[str, ...]:
    """List every word a caption can hold, once each, in a fixed order."""
    phrases = (
        *PLACES, *PROFESSIONS, *ATTRIBUTES, *ITEMS, *HAZARDS, *PLACE_PHRASES.values(), *CONTEXTS,
        UMBRELLA, *PREFIXES, *CONNECTORS, *EXTRA_WORDS,
    )  # fmt: skip
    return tuple(dict.fromkeys(word for phrase in phrases for word in phrase.split()))
