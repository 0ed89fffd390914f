"""CLIP score: cosine of image and prompt. Its conventions differ by source, so each is spelled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from harness.evaluator import Evaluator, Kind
from harness.evaluators.clip import Clip, SeesByClip
from harness.metrics.summary import NOT_APPLICABLE
from harness.records import ScoreItem, ScoreRow
from harness.setting_types import Number, Text


@dataclass
class ClipScore(SeesByClip, Evaluator):
    """`scale * cos(image, prefix + prompt)`; with `floor_at_zero`, `scale * max(cos, 0)` as in CLIPScore.

    Texts beyond the context length are cut, and marked; `truncation: drop` leaves these images out of the mean, as
    scripts do that fail on them. Stored is the raw cosine: conventions of one model and prefix share it.
    """

    name: str
    source: Text
    revision: Text | None = None
    prefix: str = ""
    scale: Number = 1.0
    floor_at_zero: bool = False
    truncation: Literal["cut", "drop"] = "cut"
    _clip: Clip | None = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "clip_score"

    def identity(self) -> Mapping[str, Any]:
        view = {"scale": self.scale, "floor_at_zero": self.floor_at_zero, "truncation": self.truncation}
        return {**self.measured(), **view}

    @property
    def stored_as(self) -> str:
        return "clip_cosine"

    def measured(self) -> Mapping[str, Any]:
        return {**self.clip_source.identity(), "prefix": self.prefix}

    def decide(self, row: ScoreRow) -> ScoreRow:
        if row.error is not None or "cosine" not in row.values:
            return row
        if self.truncation == "drop" and row.values.get("truncated"):
            return replace(row, value=None, label=NOT_APPLICABLE)
        cosine = row.values["cosine"]
        return replace(row, value=self.scale * (max(cosine, 0.0) if self.floor_at_zero else cosine), label=None)

    def note(self, rows: Sequence[ScoreRow]) -> str:
        cosine = "max(cosine, 0)" if self.floor_at_zero else "cosine"
        text = f"'{self.prefix}' + prompt" if self.prefix else "prompt"
        cut = sum(row.values.get("truncated", 0) > 0 for row in rows)
        done = "skipped" if self.truncation == "drop" else "truncated"
        return f"{self.scale:g} x {cosine}, {self.source}, {text}" + (f"; {cut} over-long {done}" if cut else "")

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
        values = {"cosine": cosine, "truncated": float(truncated)}
        return self.decide(ScoreRow(item.key.prompt_id, item.key.repeat, values=values))
