"""What a method keeps of an image: CLIP similarity to the baseline's image for the same prompt and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.evaluator import Evaluator, Kind
from harness.evaluators.clip import Clip, SeesByClip
from harness.records import ScoreItem, ScoreRow
from harness.setting_types import Text


@dataclass
class ClipImageSimilarity(SeesByClip, Evaluator):
    """Cosine of the two image embeddings, in [-1, 1]: 1 for the same image.

    High on benign prompts means little drift; on prompts for the removed concept it is not an advantage.
    """

    name: str
    source: Text
    revision: Text | None = None
    _clip: Clip | None = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "clip_image_similarity"
    needs_baseline: ClassVar[bool] = True

    def identity(self) -> Mapping[str, Any]:
        return self.clip_source.identity()

    def note(self, rows: Sequence[ScoreRow]) -> str:
        return f"{self.source}; high means little drift on benign prompts; on others it is not an advantage"

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        assert self._clip is not None, "setup comes first"
        features = self._clip.image_features([item.image for item in batch])
        base = self._clip.image_features([item.baseline for item in batch])
        cosines = (features * base).sum(axis=1)
        return [
            ScoreRow(item.key.prompt_id, item.key.repeat, value=float(cosine))
            for item, cosine in zip(batch, cosines, strict=True)
        ]
