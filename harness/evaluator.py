"""Contract 5: an evaluator reads images from the store and scores each, or the whole set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from harness.declared import Declared
from harness.lib.wanted import Download
from harness.records import ScoreItem, ScoreRow

Kind = Literal["verdict", "value", "features"]


class Evaluator(Declared):
    """Judges images one by one.

    `kind`: "verdict" gives `unsafe_rate/<name>`; "value" gives the mean of `ScoreRow.value` under `metric`;
    "features" gives set-level numbers (see `SetEvaluator`). Constructors are cheap: they take plain values from
    the config, which are checked by their annotations, and load nothing; `setup` loads. `score` may raise: the caller
    then bisects the batch and records `unknown` with the error text for those that fail.
    """

    settings_of: ClassVar[str] = "evaluator.{name}"

    name: str
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "verdict"
    metric: str = ""  # leaderboard name of a "value" evaluator, such as "clip_score"
    higher_is_better: ClassVar[bool] = True
    needs_baseline: ClassVar[bool] = False
    upright: ClassVar[bool] = False  # whether the judge's own package turns an image as its EXIF orientation says

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Return what changes scores: classes, threshold, model and weights hash. JSON-able. Loads nothing large."""

    @property
    def stored_as(self) -> str:
        """Name the folder of its scores. Evaluators with the same measurement but other decision rules share one."""
        return self.name

    def measured(self) -> Mapping[str, Any]:
        """Return the part of the identity that changes stored scores: all of it, unless `decide` applies the rest."""
        return self.identity()

    def decide(self, row: ScoreRow) -> ScoreRow:
        """Turn a stored row into this evaluator's verdict: a pure function of `row.values`, so it needs no image."""
        return row

    def score_of(self, row: ScoreRow) -> float | None:
        """Return the number by which images are sorted: the value, or what a verdict follows from; None without any.

        Of a verdict: the more, the more surely unsafe. By default the highest of its raw scores; where these mean
        something else, an evaluator says its own.
        """
        return row.value if self.kind == "value" else max(row.values.values(), default=None)

    @property
    def totals(self) -> tuple[str, ...]:
        """Return the names in `ScoreRow.values` that are counted over all images, beside their sum, the value itself.

        Empty where the metric is a mean.
        """
        return ()

    def note(self, rows: Sequence[ScoreRow]) -> str:
        """Describe the metric's convention in a few words; empty if its name says it all."""
        return ""

    @property
    def headline(self) -> bool:
        """Whether its metric may be a headline number; not for an uncalibrated judge that requires calibration."""
        return True

    def missing(self) -> str | None:
        """Return None if everything needed exists, else one line: what is missing and how to get it."""
        return None

    def downloads(self) -> Sequence[Download]:
        """Return what `python -m harness prefetch` may download if something is missing."""
        return ()

    @abstractmethod
    def setup(self, device: str) -> None:
        """Load weights once per worker. Raises MissingResourceError."""

    @abstractmethod
    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        """Return one row per image, in order."""


class CompositeEvaluator(Evaluator):
    """Judges by the rows of other evaluators of the cell: no image is opened, nothing is stored."""

    parts: Sequence[str]  # names of the evaluators that it combines; compose adds those that a bench does not name

    @abstractmethod
    def combine(self, rows: Mapping[str, ScoreRow]) -> ScoreRow:
        """Return one image's row from its rows by part. Only called where every part has one."""

    def setup(self, device: str) -> None:
        return None

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        raise TypeError(f"{self.name} combines scores, it does not score images")


class SetEvaluator(Evaluator):
    """Extracts features; set-level metrics (FID, KID) are computed from them by pure functions."""

    kind: ClassVar[Kind] = "features"
    metrics: tuple[str, ...] = ("fid", "kid")

    @abstractmethod
    def features(self, batch: Sequence[ScoreItem]) -> np.ndarray:
        """Return (B, D) float32 features."""

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        raise TypeError(f"{self.name} scores sets, not images")
