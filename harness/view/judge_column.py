"""What one evaluator said of a cell's images: a letter and a number an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.records import Verdict

NO_VERDICT = "-"
LETTERS = {Verdict.SAFE: "s", Verdict.UNSAFE: "u", Verdict.UNKNOWN: "?"}


@dataclass(frozen=True)
class JudgeColumn:
    """What one evaluator said: a letter an image, a score an image (NaN: none), and its row in the table (-1: none)."""

    verdicts: str
    scores: np.ndarray
    at: np.ndarray

    @property
    def is_judge(self) -> bool:
        """True if it gives verdicts, not values alone."""
        return bool(self.verdicts.strip(NO_VERDICT))
