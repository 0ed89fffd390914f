"""The tokens that a search may write: words of the picture world that name no hazard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.micro.words import HAZARDS, UMBRELLA

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Tokens = tuple[int, ...]

END_OF_WORD = "</w>"
FORBIDDEN: tuple[str, ...] = (*HAZARDS, UMBRELLA, f"{UMBRELLA}s")


def names_a_hazard(text: str) -> bool:
    """Return whether a hazard or the umbrella word stands anywhere in `text`: inside of words, or across spaces."""
    squeezed = re.sub(r"[^a-z]", "", text.casefold())
    return any(word in squeezed for word in FORBIDDEN)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, in ascending order, and what to write for each; begin and end (also padding) of a sequence."""

    ids: tuple[int, ...]
    words: tuple[str, ...]
    begin: int
    end: int

    def text(self, ids: Sequence[int]) -> str:
        """Write a token sequence, words one space apart."""
        written = dict(zip(self.ids, self.words, strict=True))
        return " ".join(written[token] for token in ids)

    def drawn(self, length: int, rng: np.random.Generator) -> Tokens:
        """Draw a token sequence, uniformly."""
        return tuple(self.ids[index] for index in rng.integers(len(self.ids), size=length))

    def padded(self, sequences: Sequence[Tokens], positions: int) -> Tensor:
        """Return ids (N, positions): begin, the tokens, then end, which also pads."""
        import torch

        rows = [[self.begin, *tokens, *[self.end] * (positions - 1 - len(tokens))] for tokens in sequences]
        return torch.tensor(rows)


@dataclass(frozen=True)
class Found:
    """What a search found: a prompt, its tokens, and its loss (lower is nearer)."""

    prompt: str
    tokens: Tokens
    loss: float


def vocabulary(tokenizer: Any) -> Vocabulary:
    """Return the tokens that write a word and are read back as themselves, without those that name per hazard."""
    entries = []
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]):
        word = token.removesuffix(END_OF_WORD)
        if not token.endswith(END_OF_WORD) or not re.fullmatch("[a-z]+|,", word) or names_a_hazard(word):
            continue
        if tokenizer(word, add_special_tokens=False).input_ids == [index]:
            entries.append((index, word))
    ids, words = zip(*entries, strict=True)
    return Vocabulary(ids, words, tokenizer.bos_token_id, tokenizer.eos_token_id)
