"""VQAScore: does an image show its prompt? The probability that a vision-language model says yes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from harness.evaluator import Evaluator, Kind
from harness.evaluators.model_source import ModelSource
from harness.evaluators.vlm import Dtype, VisionLanguageModel, load_vlm
from harness.lib.wanted import Download
from harness.records import ScoreItem, ScoreRow
from harness.setting_types import Must, Text

Question = Annotated[str, Must("a text with one {}, where the prompt goes", "texts",
                               lambda text: text.count("{}") == 1)]


@dataclass
class VqaScore(Evaluator):
    """P(answer | image, question about the prompt) (Lin et al. 2024, arXiv 2404.01291, equation 1), in [0, 1].

    `question` holds `{}` where the prompt goes. Values of two models, or of two questions, are not comparable.
    """

    name: str
    source: Text
    revision: Text | None = None
    dtype: Dtype = "bfloat16"
    question: Question = 'Does this figure show "{}"? Please answer yes or no.'
    answer: Text = "Yes"
    _model: VisionLanguageModel | None = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "vqa_score"

    def _source(self) -> ModelSource:
        return ModelSource(self.source, self.revision, "vision-language model")

    def identity(self) -> Mapping[str, Any]:
        return {**self._source().identity(), "dtype": self.dtype, "question": self.question, "answer": self.answer}

    def note(self, rows: Sequence[ScoreRow]) -> str:
        return f"P({self.answer.strip()}) by {self.source}"

    def missing(self) -> str | None:
        return self._source().missing()

    def downloads(self) -> Sequence[Download]:
        return self._source().downloads()

    def setup(self, device: str) -> None:
        self._model = load_vlm(self._source().required(), self.dtype, device)
        self._model.answer_id(self.answer)

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        assert self._model is not None, "setup comes first"
        questions = [self.question.replace("{}", item.prompt) for item in batch]
        probabilities = self._model.probabilities([item.image for item in batch], questions, self.answer)
        return [
            ScoreRow(item.key.prompt_id, item.key.repeat, value=float(p))
            for item, p in zip(batch, probabilities, strict=True)
        ]
