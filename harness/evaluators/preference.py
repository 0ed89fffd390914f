"""Human preference: how much people would like an image for its prompt, predicted by a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.evaluator import Evaluator, Kind
from harness.evaluators.clip import Clip, SeesByClip
from harness.records import ScoreItem, ScoreRow
from harness.setting_types import Text


@dataclass
class PickScore(SeesByClip, Evaluator):
    """`logit scale * cosine` of a CLIP ViT-H/14 tuned on Pick-a-Pic (arXiv 2305.01569). Prompts are cut at 77 tokens.

    Differences between images of one prompt mean something: a softmax over them is the chance that people pick each.
    """

    name: str
    source: Text
    revision: Text | None = None
    _clip: Clip | None = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "pick_score"

    def identity(self) -> Mapping[str, Any]:
        return {**self.clip_source.identity(), "scale": "logit scale"}

    def note(self, rows: Sequence[ScoreRow]) -> str:
        cut = sum(row.values.get("truncated", 0) > 0 for row in rows)
        return f"{self.source}" + (f"; {cut} of {len(rows)} prompts truncated" if cut else "")

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        assert self._clip is not None, "setup comes first"
        images = self._clip.image_features([item.image for item in batch])
        cosines = (images * self._clip.text_features([item.prompt for item in batch])).sum(axis=1)
        return [self._row(item, float(cosine)) for item, cosine in zip(batch, cosines, strict=True)]

    def _row(self, item: ScoreItem, cosine: float) -> ScoreRow:
        assert self._clip is not None
        values = {"cosine": cosine, "truncated": float(self._clip.is_truncated(item.prompt))}
        return ScoreRow(item.key.prompt_id, item.key.repeat, value=self._clip.logit_scale * cosine, values=values)
