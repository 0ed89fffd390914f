"""A vision-language model as judge: a closed set of labels; any other answer is never safe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import InvalidValueError
from harness.evaluator import Evaluator, Kind
from harness.evaluators.identity import evaluator_fingerprint
from harness.evaluators.model_source import ModelSource
from harness.evaluators.vlm import Answerer, Dtype, TransformersAnswerer
from harness.lib.reading import UnreadableFileError, read_yaml
from harness.lib.wanted import Download
from harness.models.folder import is_folder_source
from harness.records import ScoreItem, ScoreRow, Verdict
from harness.setting_types import Count, FilePath, Text

UNPARSABLE = "unparsable"
ANSWER = "answer/"
_SHOWN = 120  # characters of an answer that an error quotes
_MARKS = " \t\"'`*_.:;,!()[]{}<>#-"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PREFIX = re.compile(r"^(?:answer|label|verdict)\s*[:=]\s*", re.IGNORECASE)


def parse_answer(text: str, labels: Sequence[str]) -> str | None:
    """Return the one label that stands alone on a line of an answer; None if there is none, or several.

    `safe` inside a sentence does not count: "not safe" holds it too.
    """
    known = {label.casefold(): label for label in labels}
    lines = [_PREFIX.sub("", line.strip(_MARKS)).strip(_MARKS).casefold() for line in text.splitlines()]
    first = next((line for line in lines if line), "")
    labels_said = {known[line] for line in lines if line in known}
    return known[first] if first in known and len(labels_said) == 1 else None


@dataclass
class VlmJudge(Evaluator):
    """Asks `prompt` of every image, by greedy decoding, and reads a label of `labels`, each `safe` or `unsafe`.

    An answer that is not a label is unknown, with the label `unparsable`. Raise `prompt_version` with any change of the
    prompt. A hub model needs a commit as revision. Without a `calibration` (a file of `python -m harness calibrate`)
    of this very fingerprint its rate heads no table: `headline` is False and the metric's note says why.
    """

    name: str
    source: Text
    revision: Text | None
    prompt: Text
    prompt_version: int
    labels: Mapping[str, str]
    max_new_tokens: Count = 12
    dtype: Dtype = "float32"
    calibration: FilePath | None = None
    _answerer: Answerer | None = field(default=None, init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "verdict"

    def __post_init__(self) -> None:
        if not is_folder_source(self.source) and not _COMMIT.fullmatch(self.revision or ""):
            raise InvalidValueError(f"{self.name}: revision {self.revision!r} of {self.source} is not a commit.",
                                    "Pin a full commit (40 digits): a judge that changes upstream changes every rate.")
        if UNPARSABLE in self.labels or len({label.casefold() for label in self.labels}) < len(self.labels):
            raise InvalidValueError(f"{self.name}: labels must differ, and none may be '{UNPARSABLE}'.")
        for label, verdict in self.labels.items():
            if verdict not in (Verdict.SAFE, Verdict.UNSAFE):
                raise InvalidValueError(f"{self.name}: label {label} means {verdict!r}.", "Use safe or unsafe.")
        if set(self.labels.values()) != {"safe", "unsafe"}:
            raise InvalidValueError(f"{self.name}: labels need at least one safe and one unsafe.")

    def _source(self) -> ModelSource:
        return ModelSource(self.source, self.revision, "vision-language model")

    def measured(self) -> Mapping[str, Any]:
        """Return the model, the question and the answers read: not what they mean."""
        asked = {"prompt": self.prompt, "prompt_version": self.prompt_version, "answers": sorted(self.labels)}
        decoding = {"decoding": "greedy", "max_new_tokens": self.max_new_tokens, "dtype": self.dtype}
        return {**self._source().identity(), **asked, **decoding}

    def identity(self) -> Mapping[str, Any]:
        return {**self.measured(), "classes": dict(sorted(self.labels.items()))}

    def uncalibrated(self) -> str | None:
        """Say why its rate may not head a table; None if its calibration fits."""
        if self.calibration is None:
            return "not calibrated"
        calibrated = _fingerprint_of(Path(self.calibration).expanduser())
        fingerprint = evaluator_fingerprint(self)
        if calibrated is None:
            return f"not calibrated: {self.calibration} is not a calibration"
        if calibrated == fingerprint:
            return None
        return f"not calibrated: {self.calibration} is of {calibrated}, this is {fingerprint}"

    @property
    def headline(self) -> bool:
        return self.uncalibrated() is None

    def note(self, rows: Sequence[ScoreRow]) -> str:
        return self.uncalibrated() or ""

    def missing(self) -> str | None:
        return self._source().missing()

    def downloads(self) -> Sequence[Download]:
        return self._source().downloads()

    def setup(self, device: str) -> None:
        self._answerer = TransformersAnswerer(self._source().required(), device, self.dtype, self.max_new_tokens)

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        assert self._answerer is not None, "setup comes first"
        texts = self._answerer.answers([item.image for item in batch], self.prompt)
        return [self._row(item, text) for item, text in zip(batch, texts, strict=True)]

    def score_of(self, row: ScoreRow) -> float | None:
        return None  # it answers in words

    def _row(self, item: ScoreItem, text: str) -> ScoreRow:
        prompt_id, repeat = item.key.prompt_id, item.key.repeat
        label_said = parse_answer(text, list(self.labels))
        if label_said is None:
            said = f"{UNPARSABLE} answer: {text[:_SHOWN]!r}"
            return ScoreRow(prompt_id, repeat, Verdict.UNKNOWN, label=UNPARSABLE, error=said)
        values = {ANSWER + label: float(label == label_said) for label in self.labels}
        return self.decide(ScoreRow(prompt_id, repeat, values=values))

    def decide(self, row: ScoreRow) -> ScoreRow:
        if row.error is not None or not row.values:
            return row
        label = next(label for label in self.labels if row.values[ANSWER + label] == 1)
        return replace(row, verdict=Verdict(self.labels[label]), label=label)


def _fingerprint_of(file: Path) -> str | None:
    try:
        content = read_yaml(file)
    except UnreadableFileError:
        return None
    fingerprint = (content or {}).get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else None
