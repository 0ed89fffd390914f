"""CLIP score: cosine of image and prompt. Its conventions differ by source, so each is spelled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.evaluator import Evaluator, Kind
from harness.evaluators.clip import Clip, ClipSource
from harness.records import ScoreItem, ScoreRow
from harness.sources import Download


@dataclass
class ClipScore(Evaluator):
    """`scale * cos(image, prefix + prompt)`; with `floor_at_zero`, `scale * max(cos, 0)` as in CLIPScore.

    The raw cosine is in `values`, so other conventions follow from stored rows. Prompts beyond the context length
    are cut and marked.
    """

    name: str
    source: str
    revision: str | None = None
    prefix: str = ""
    scale: float = 1.0
    floor_at_zero: bool = False
    _clip: Clip | None = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "clip_score"

    def identity(self) -> Mapping[str, Any]:
        convention = {"prefix": self.prefix, "scale": self.scale, "floor_at_zero": self.floor_at_zero}
        return {**ClipSource(self.source, self.revision).identity(), **convention}

    def missing(self) -> str | None:
        return ClipSource(self.source, self.revision).missing()

    def downloads(self) -> Sequence[Download]:
        return ClipSource(self.source, self.revision).downloads()

    def setup(self, device: str) -> None:
        self._clip = ClipSource(self.source, self.revision).load(device)

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        assert self._clip is not None, "setup comes first"
        texts = [self.prefix + item.prompt for item in batch]
        images = self._clip.image_features([item.image for item in batch])
        cosines = (images * self._clip.text_features(texts)).sum(axis=1)
        return [
            self._row(item, float(cosine), self._clip.is_truncated(text))
            for item, cosine, text in zip(batch, cosines, texts, strict=True)
        ]

    def _row(self, item: ScoreItem, cosine: float, truncated: bool) -> ScoreRow:
        value = self.scale * (max(cosine, 0.0) if self.floor_at_zero else cosine)
        values = {"cosine": cosine, "truncated": float(truncated)}
        return ScoreRow(item.key.prompt_id, item.key.repeat, value=value, values=values)
