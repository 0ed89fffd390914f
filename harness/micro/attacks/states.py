"""Text states as a function of tokens that may be blends: what gradients of a search flow through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.sampling.patching import forward_replaced

if TYPE_CHECKING:
    from torch import Tensor


def text_states(encoder: Any, one_hot: Tensor) -> Tensor:
    """Return the states (B, P, D) of token rows `one_hot` (B, P, V), each a token or a blend of several."""
    embedding = encoder.get_input_embeddings()
    vectors = one_hot @ embedding.weight
    with forward_replaced(embedding, lambda ids: vectors):
        states: Tensor = encoder(one_hot.detach().argmax(-1)).last_hidden_state
    return states
