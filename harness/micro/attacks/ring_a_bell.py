"""Ring-A-Bell (Tsai et al., ICLR 2024, arXiv 2310.10012) on the embedded world: a genetic search among text states.

Black box to U-Net and method: only the text encoder is asked. The target is the text states of a harmless caption plus
eta times a concept vector; K tokens are bred until their states are near it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.micro.attacks.embedded import require_embedded
from harness.micro.attacks.vocabulary import Found, Tokens, Vocabulary, names_a_hazard, vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


@dataclass(frozen=True)
class RingABell:
    """The search's settings. `positions` of the 77 text states are compared; those after them are padding too."""

    eta: float = 3.0
    length: int = 10  # K
    positions: int = 24
    population: int = 200
    generations: int = 50
    mutation: float = 0.25
    crossover: float = 0.5


def concept_vector(model: LoadedModel, hazardous: Sequence[str], harmless: Sequence[str]) -> Tensor:
    """Return the mean difference (77, D) of paired captions' text states (arXiv 2310.10012, eq. 3)."""
    return (model.encode(hazardous) - model.encode(harmless)).mean(0)


class States:
    """Squared errors of token sequences to a target (P, D), each sequence asked once.

    Attention is causal, so P positions of the encoder are the first P of all 77. Errors are rounded: what decides must
    not hang on the last bit.
    """

    def __init__(self, model: LoadedModel, target: Tensor, words: Vocabulary) -> None:
        self.encoder, self.target, self.words = model.pipe.text_encoder, target, words
        self._known: dict[Tokens, float] = {}

    def losses(self, population: Sequence[Tokens]) -> list[float]:
        """Return the error of each sequence; infinite where the words together would name per hazard."""
        new = [tokens for tokens in dict.fromkeys(population) if tokens not in self._known]
        allowed = [tokens for tokens in new if not names_a_hazard(self.words.text(tokens))]
        self._known |= dict.fromkeys(new, float("inf"))
        for start in range(0, len(allowed), 64):
            part = allowed[start : start + 64]
            self._known |= dict(zip(part, self._errors(part), strict=True))
        return [self._known[tokens] for tokens in population]

    def _errors(self, sequences: Sequence[Tokens]) -> list[float]:
        import torch

        with torch.no_grad():
            states = self.encoder(self.words.padded(sequences, len(self.target))).last_hidden_state
            errors = (states - self.target).double().square().sum((1, 2))
        return [round(value, 3) for value in errors.tolist()]


def search(model: LoadedModel, prompt: str, vector: Tensor, settings: RingABell, rng: np.random.Generator) -> Found:
    """Breed K tokens whose text states are near those of `prompt` plus eta times `vector`.

    As released: the better half survives, parents pair with probability `crossover` and leave two children, and each
    of all mutates one token with probability `mutation`. The best ever seen is returned. Raises IncompatibleError for
    any model that is not the embedded one.
    """
    require_embedded(model)
    words = vocabulary(model.pipe.tokenizer)
    target = (model.embed(prompt) + settings.eta * vector)[: settings.positions]
    states = States(model, target, words)
    population = [words.drawn(settings.length, rng) for _ in range(settings.population)]
    best: tuple[float, Tokens] = (float("inf"), population[0])
    for _ in range(settings.generations):
        ranked = sorted(zip(states.losses(population), population, strict=True))
        best = min(best, ranked[0])
        parents = [tokens for _, tokens in ranked[: settings.population // 2]]
        population = _mutated(_crossed(parents, settings.crossover, rng), words, settings.mutation, rng)
    best = min(best, *zip(states.losses(population), population, strict=True))
    return Found(words.text(best[1]), best[1], best[0])


def _crossed(parents: Sequence[Tokens], rate: float, rng: np.random.Generator) -> list[Tokens]:
    out: list[Tokens] = []
    for parent in parents:
        out.append(parent)
        if rng.random() < rate:
            other, cut = parents[int(rng.integers(len(parents)))], int(rng.integers(len(parent)))
            out += [parent[:cut] + other[cut:], other[:cut] + parent[cut:]]
    return out


def _mutated(population: Sequence[Tokens], words: Vocabulary, rate: float, rng: np.random.Generator) -> list[Tokens]:
    out = []
    for tokens in population:
        if rng.random() < rate:
            at, word = int(rng.integers(len(tokens))), words.ids[int(rng.integers(len(words.ids)))]
            tokens = (*tokens[:at], word, *tokens[at + 1 :])
        out.append(tokens)
    return out
