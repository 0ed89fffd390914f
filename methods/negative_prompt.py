"""Negative prompt: the unwanted concept takes the place of the empty prompt in classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from harness.method import Method
from harness.records import ImageItem


@dataclass(frozen=True)
class NegativePrompt(Method):
    """eps = s + w (p - s), with s = e(concept) in the unconditional slot.

    A prompt that brings its own negative prompt keeps it, with the concept appended. An empty concept is off.
    """

    concept: str
    name: str = "negative_prompt"

    kind: ClassVar[str] = "negative_prompt"
    needs_guidance: ClassVar[bool] = True
    owns_uncond: ClassVar[bool] = True

    def prompts(self, items: Sequence[ImageItem]) -> Sequence[ImageItem]:
        if not self.concept:
            return items
        return [replace(item, negative_prompt=self._joined(item.negative_prompt)) for item in items]

    def _joined(self, negative_prompt: str | None) -> str:
        return f"{negative_prompt}, {self.concept}" if negative_prompt else self.concept
