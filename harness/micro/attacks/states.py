"""Text states as a function of tokens that may be blends: what gradients of a search flow through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def text_states(encoder: Any, one_hot: Tensor) -> Tensor:
    """Return the states (B, P, D) of token rows `one_hot` (B, P, V), each a token or a blend of several."""
    embedding = encoder.get_input_embeddings()
    with _answering(embedding, one_hot @ embedding.weight):
        states: Tensor = encoder(one_hot.detach().argmax(-1)).last_hidden_state
    return states


@contextmanager
def _answering(embedding: Any, vectors: Tensor) -> Iterator[None]:
    own = embedding.__dict__.get("forward")
    embedding.forward = lambda ids: vectors
    try:
        yield
    finally:
        if own is None:
            del embedding.forward
        else:
            embedding.forward = own
