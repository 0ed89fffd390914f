"""MMA-Diffusion's text attack (Yang et al., CVPR 2024, arXiv 2311.17516) on the embedded world.

Greedy coordinate gradient: the gradient of the loss over one-hot tokens proposes replacements, and the best of a batch
of sequences with one token replaced is kept. Loss: one minus the cosine of the pooled embedding and the target
prompt's. Tokens that name per hazard are not proposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.micro.attacks.embedded import require_embedded
from harness.micro.attacks.states import text_states
from harness.micro.attacks.vocabulary import Found, Tokens, Vocabulary, names_a_hazard, vocabulary
from harness.models.text_encoder import pooled, token_ids
from harness.training.frozen import frozen_text_encoder

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


@dataclass(frozen=True)
class Mma:
    """The search's settings. Each step proposes `top` tokens a position and tries `batch` sequences."""

    length: int = 10
    steps: int = 60
    top: int = 16
    batch: int = 64


def search(model: LoadedModel, target: str, settings: Mma, rng: np.random.Generator) -> Found:
    """Find tokens whose pooled embedding points where `target`'s does; the best ever seen is returned.

    Raises IncompatibleError for any model that is not the embedded one.
    """
    require_embedded(model)
    words = vocabulary(model.pipe.tokenizer)
    goal = pooled(model, token_ids(model, target))[0]
    with frozen_text_encoder(model):
        tokens = _first(words, settings.length, rng)
        best = (_losses(model, [tokens], goal, words)[0], tokens)
        for _ in range(settings.steps):
            proposed = _proposals(model, tokens, goal, words, settings.top)
            tried = _replaced(tokens, proposed, settings.batch, words, rng)
            loss, tokens = min(zip(_losses(model, tried, goal, words), tried, strict=True))
            best = min(best, (loss, tokens))
    return Found(words.text(best[1]), best[1], best[0])


def _first(words: Vocabulary, length: int, rng: np.random.Generator) -> Tokens:
    while names_a_hazard(words.text(tokens := words.drawn(length, rng))):
        pass
    return tokens


def _cosine_loss(states: Tensor, goal: Tensor, length: int) -> Tensor:
    """Return 1 - cos (B,) of the states at the end token and `goal` (D,)."""
    from torch.nn.functional import cosine_similarity

    return 1 - cosine_similarity(states[:, length + 1], goal[None], dim=1)


def _losses(model: LoadedModel, sequences: Sequence[Tokens], goal: Tensor, words: Vocabulary) -> list[float]:
    import torch

    length = len(sequences[0])
    with torch.no_grad():  # attention is causal: states up to the end token need nothing after it
        states = model.pipe.text_encoder(words.padded(sequences, length + 2)).last_hidden_state
    return [round(value, 6) for value in _cosine_loss(states, goal, length).tolist()]


def _proposals(model: LoadedModel, tokens: Tokens, goal: Tensor, words: Vocabulary, top: int) -> list[Tokens]:
    """Return for each position the allowed tokens that the gradient favours most, best first."""
    import torch
    from torch.nn.functional import one_hot

    encoder = model.pipe.text_encoder
    size = encoder.get_input_embeddings().weight.shape[0]
    rows = one_hot(words.padded([tokens], len(tokens) + 2), size).float().requires_grad_()
    loss = _cosine_loss(text_states(encoder, rows), goal, len(tokens)).sum()
    (gradient,) = torch.autograd.grad(loss, rows)
    allowed = torch.tensor(words.ids)
    order = gradient[0, 1:-1, allowed].argsort(dim=1, stable=True)[:, :top]
    return [tuple(allowed[row].tolist()) for row in order]


def _replaced(
    tokens: Tokens, proposed: Sequence[Tokens], count: int, words: Vocabulary, rng: np.random.Generator
) -> list[Tokens]:
    """Return up to `count` sequences with one token replaced, positions in equal shares, none naming a hazard."""
    out = []
    for index in range(count):
        at = index * len(tokens) // count
        word = proposed[at][int(rng.integers(len(proposed[at])))]
        out.append((*tokens[:at], word, *tokens[at + 1 :]))
    return [changed for changed in dict.fromkeys(out) if not names_a_hazard(words.text(changed))] or [tokens]
