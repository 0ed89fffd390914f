"""Objects by ImageNet top-1 of a ResNet, as UnlearnDiffAtk and ESD count what erasing an object leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import HarnessError, InvalidValueError, unknown_name
from harness.evaluator import Evaluator, Kind
from harness.evaluators.clip import softmax
from harness.evaluators.model_source import ModelSource
from harness.lib.reading import UnreadableFileError, read_json
from harness.lib.wanted import Download
from harness.metrics.summary import NOT_APPLICABLE
from harness.records import ScoreItem, ScoreRow
from harness.setting_types import Text

CATEGORY = "category"


@dataclass(frozen=True)
class ClassNames:
    """A classifier's labels by index. ImageNet's hold synonyms: `tench, Tinca tinca`."""

    labels: tuple[str, ...]

    def index(self, name: str) -> int:
        """Return the index of a label, one of its synonyms or a number, whatever the case. Raises HarnessError."""
        if name.isdecimal() and int(name) < len(self.labels):
            return int(name)
        whole = [i for i, label in enumerate(self.labels) if label.casefold() == name.casefold()]
        words = [i for i, label in enumerate(self.labels) if name.casefold() in _synonyms(label)]
        indices = whole or words
        if not indices:
            raise unknown_name("class of the classifier", name, {w for label in self.labels for w in _synonyms(label)})
        if len(indices) > 1:
            raise InvalidValueError(f"'{name}' names {len(indices)} classes: {', '.join(map(str, indices))}.",
                                    "Use the number of one.")
        return indices[0]


def read_class_names(folder: Path) -> ClassNames:
    """Read the labels of a transformers classifier from its config.json."""
    file = folder / "config.json"
    names = (read_json(file) or {}).get("id2label")
    if not isinstance(names, dict) or not names or set(names) != {str(i) for i in range(len(names))}:
        raise UnreadableFileError(file, "it has no id2label")
    return ClassNames(tuple(str(names[str(i)]) for i in range(len(names))))


def _synonyms(label: str) -> list[str]:
    return [word.strip().casefold() for word in label.split(",")]


@dataclass
class ObjectAccuracy(Evaluator):
    """Value 1 where the top-1 class is the row's own class, else 0.

    The row's class is its category, or its meta `class_from`. Subclasses say which rows count, given `target`.
    """

    name: str
    source: Text
    revision: Text | None = None
    target: str | None = None
    class_from: str = CATEGORY
    _network: Any = field(default=None, init=False, repr=False)
    _names: ClassNames | None = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"

    def _source(self) -> ModelSource:
        return ModelSource(self.source, self.revision, "image classifier")

    def identity(self) -> Mapping[str, Any]:
        choice = {"target": self.target, "class_from": self.class_from, "rows": self.metric}
        return {**self._source().identity(), **choice, "classes": "ImageNet top-1"}

    def missing(self) -> str | None:
        return self._source().missing()

    def downloads(self) -> Sequence[Download]:
        return self._source().downloads()

    def setup(self, device: str) -> None:
        folder = self._source().required()
        self._names = read_class_names(folder)
        if self.target is not None:
            self._names.index(self.target)
        self._network = Classifier(folder, device)

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        assert self._network is not None, "setup comes first"
        probabilities = self._network.probabilities([item.image for item in batch])
        return [self._row(item, p) for item, p in zip(batch, probabilities, strict=True)]

    def _row(self, item: ScoreItem, probabilities: Any) -> ScoreRow:
        assert self._names is not None
        prompt_id, repeat = item.key.prompt_id, item.key.repeat
        try:
            wanted = self._class_of(item)
        except HarnessError as error:
            return ScoreRow(prompt_id, repeat, error=str(error))
        if wanted is None or not self.counts(wanted):
            return ScoreRow(prompt_id, repeat, label=NOT_APPLICABLE)
        top = int(probabilities.argmax())
        values = {"top1": float(top), "p_top1": float(probabilities[top]), "class": float(wanted),
                  "p_class": float(probabilities[wanted])}  # fmt: skip
        return ScoreRow(prompt_id, repeat, value=float(top == wanted), label=self._names.labels[top], values=values)

    def _class_of(self, item: ScoreItem) -> int | None:
        assert self._names is not None
        if self.class_from == CATEGORY:
            given = list(item.category)
        else:
            given = [str(item.meta[self.class_from])] if item.meta.get(self.class_from) not in (None, "") else []
        if len(given) > 1:
            raise InvalidValueError(f"the row names {len(given)} classes.", "Exactly one is needed.")
        if given:
            return self._names.index(given[0])
        return self._names.index(self.target) if self.target is not None else None

    def counts(self, index: int) -> bool:
        """Return whether rows of a class count."""
        raise NotImplementedError

    def _is_target(self, index: int) -> bool:
        assert self._names is not None
        return self.target is not None and index == self._names.index(self.target)


@dataclass
class TargetAccuracy(ObjectAccuracy):
    """How often an object that should be gone is still seen: rows of `target`, or every row where it is None."""

    metric = "target_accuracy"
    higher_is_better: ClassVar[bool] = False

    def counts(self, index: int) -> bool:
        return self.target is None or self._is_target(index)


@dataclass
class OtherAccuracy(ObjectAccuracy):
    """How often objects that should stay are seen: rows of any class but `target`."""

    metric = "other_accuracy"
    higher_is_better: ClassVar[bool] = True

    def counts(self, index: int) -> bool:
        return not self._is_target(index)


class Classifier:
    """A ResNet in memory, float32, with PIL preprocessing as its config says."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from transformers import ConvNextImageProcessorPil, ResNetForImageClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        network = ResNetForImageClassification.from_pretrained(folder, local_files_only=True, use_safetensors=True,
                                                               dtype=torch.float32)  # fmt: skip
        self._network = network.eval().to(device)
        self._processor = ConvNextImageProcessorPil.from_pretrained(folder, local_files_only=True)

    def probabilities(self, images: Sequence[Any]) -> Any:
        """Return class probabilities (B, C) float64 of (H, W, 3) uint8 RGB images of any size."""
        import torch
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"].to(self._network.device)
        with torch.inference_mode():
            logits = self._network(pixels).logits.float()
        if not bool(torch.isfinite(logits).all()):  # argmax would still name a class
            raise ValueError("the classifier's logits are not finite")
        return softmax(logits.cpu().numpy())
