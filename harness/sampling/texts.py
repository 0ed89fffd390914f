"""The text embeddings of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.models.conditions import EmbedBundle, encoded_condition, negative_condition
from harness.models.families import kin_of
from harness.records import ImageItem

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel


def bundle_of(model: LoadedModel, items: Sequence[ImageItem]) -> EmbedBundle:
    """Return the text embeddings of a batch, as the stock pipeline of the model's family makes them."""
    cond = encoded_condition(model, [item.prompt for item in items])
    if not kin_of(model).has_negative_branch:
        nothing = cond.each(lambda value: 0 * value)
        return EmbedBundle(cond.embeds, nothing.embeds, cond.pooled, nothing.pooled)
    uncond = negative_condition(model, [item.negative_prompt for item in items])
    return EmbedBundle(cond.embeds, uncond.embeds, cond.pooled, uncond.pooled)
