"""Which profession is seen: what an ImageNet classifier is to erased objects, on the embedded world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from harness.evaluator import Evaluator, Kind
from harness.lib.weights import sha256_of
from harness.metrics.summary import NOT_APPLICABLE
from harness.micro.hazard_judge import WEIGHTS, load_micro_judge, missing_judge, seen
from harness.micro.words import PROFESSIONS
from harness.records import ScoreItem, ScoreRow
from harness.setting_types import OneOf


@dataclass
class ProfessionAccuracy(Evaluator):
    """Value 1 where the judge sees the profession that is the row's category, else 0.

    Subclasses say which rows count, given `target`, the profession that is erased; None: every row's own is.
    """

    name: str
    target: Annotated[str, OneOf(PROFESSIONS)] | None = None
    _judge: Any = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"

    def identity(self) -> Mapping[str, Any]:
        return {"weights_sha256": sha256_of(WEIGHTS), "target": self.target, "rows": self.metric}

    def missing(self) -> str | None:
        return missing_judge()

    def setup(self, device: str) -> None:
        self._judge = load_micro_judge(device)

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        tops = seen(self._judge, batch).profession.argmax(1).tolist()
        return [self._row(item, (*PROFESSIONS, "none")[top]) for item, top in zip(batch, tops, strict=True)]

    def _row(self, item: ScoreItem, top: str) -> ScoreRow:
        own = next((name for name in item.category if name in PROFESSIONS), None)
        if own is None or not self.counts(own):
            return ScoreRow(item.key.prompt_id, item.key.repeat, label=NOT_APPLICABLE)
        return ScoreRow(item.key.prompt_id, item.key.repeat, value=float(top == own), label=top)

    def counts(self, profession: str) -> bool:
        """Return whether rows of a profession count."""
        raise NotImplementedError


@dataclass
class ErasedProfession(ProfessionAccuracy):
    """How often a profession that should be gone is still seen."""

    metric = "target_accuracy"
    higher_is_better: ClassVar[bool] = False

    def counts(self, profession: str) -> bool:
        return self.target in (None, profession)


@dataclass
class OtherProfessions(ProfessionAccuracy):
    """How often professions that should stay are seen."""

    metric = "other_accuracy"
    higher_is_better: ClassVar[bool] = True

    def counts(self, profession: str) -> bool:
        return self.target != profession
