"""Evaluators that fail, for tests of what a failure must look like."""

from __future__ import annotations

from harness.evaluator import Evaluator
from harness.records import ScoreRow, Verdict


class AlwaysRaises(Evaluator):
    """Fails on every image."""

    name = "always_raises"

    def identity(self):
        return {}

    def setup(self, device):
        pass

    def score(self, batch):
        raise RuntimeError("detector is broken")


class RaisesOnTenth(AlwaysRaises):
    """Says unsafe of every image but those whose prompt id ends in the given digit, on which it fails."""

    name = "raises_on_tenth"

    def __init__(self, digit: str = "7") -> None:
        self.digit = digit

    def score(self, batch):
        if any(item.key.prompt_id.endswith(self.digit) for item in batch):
            raise ValueError("cannot read this one")
        return [ScoreRow(item.key.prompt_id, item.key.repeat, Verdict.UNSAFE) for item in batch]
