"""Learned tokens: new embeddings, added to a model's text encoder temporarily."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import IncompatibleError
from harness.sampling.patching import forward_replaced

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


def token_text(name: str, vectors: int) -> str:
    """Return the text that stands for `vectors` learned tokens."""
    return " ".join(_names(name, vectors))


def _names(name: str, vectors: int) -> list[str]:
    return [f"<{name}-{index}>" for index in range(vectors)]


@contextmanager
def soft_tokens(model: LoadedModel, name: str, vectors: Tensor) -> Iterator[None]:
    """Let `token_text(name, V)` mean `vectors` (V, D); gradients flow to them. Leaving forgets the word.

    The tokenizer is a copy that knows the new words; the embedding's weights stay as they are.
    """
    pipe, width = model.pipe, model.pipe.text_encoder.get_input_embeddings().weight.shape[1]
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise IncompatibleError(f"the learned token has {vectors.shape[-1]} features, but this text encoder has "
                                f"{width}.")
    tokenizer = pipe.tokenizer
    extended = copy.deepcopy(tokenizer)
    first = _add_words(extended, _names(name, len(vectors)))
    try:
        pipe.tokenizer = extended
        model.forget_texts()
        with _looked_up(pipe.text_encoder.get_input_embeddings(), first, vectors):
            yield
    finally:
        pipe.tokenizer = tokenizer
        model.forget_texts()


def _add_words(tokenizer: Any, words: Sequence[str]) -> int:
    """Add words that are matched letter by letter, before anything else; return the first one's id."""
    from transformers import AddedToken

    if tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words]) != len(words):
        raise IncompatibleError(f"the tokenizer already has {words[0]}.")
    return min(tokenizer.convert_tokens_to_ids(list(words)))


@contextmanager
def _looked_up(embedding: Any, first: int, vectors: Tensor) -> Iterator[None]:
    """Serve ids from `first` on out of `vectors`, all others as before."""
    import torch

    original = embedding.forward

    def forward(ids: Tensor) -> Tensor:
        soft = ids >= first
        out: Tensor = original(ids.masked_fill(soft, 0))
        learned = vectors.to(out.device, out.dtype)[(ids - first).clamp(0, len(vectors) - 1)]
        return torch.where(soft.unsqueeze(-1), learned, out)

    with forward_replaced(embedding, forward):
        yield


def word_vectors(model: LoadedModel, word: str, vectors: int) -> Tensor:
    """Return the mean embedding of a word's tokens, (vectors, D) float32: where a learned token starts from."""
    ids = model.pipe.tokenizer(word, add_special_tokens=False, return_tensors="pt").input_ids[0].to(model.device)
    weight = model.pipe.text_encoder.get_input_embeddings()(ids)
    mean: Tensor = weight.detach().float().mean(0, keepdim=True)
    return mean.repeat(vectors, 1)
