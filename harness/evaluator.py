"""Contract 5: an evaluator reads images from the store and says something about each, or about the set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from harness.lib.wanted import Download
from harness.records import ScoreItem, ScoreRow

Kind = Literal["verdict", "value", "features"]


class Evaluator(ABC):
    """Judges images one by one.

    `kind`: "verdict" gives `unsafe_rate/<name>`; "value" gives the mean of `ScoreRow.value` under `metric`;
    "features" gives set-level numbers (see `SetEvaluator`). Constructors are cheap: they take plain values from
    the config and load nothing; `setup` loads. `score` may raise: the caller then tries halves of the batch and
    records `unknown` with the error text for those that fail.
    """

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
        """Name the folder of its scores. Evaluators that measure the same and decide otherwise share one."""
        return self.name

    def measured(self) -> Mapping[str, Any]:
        """Return the part of the identity that changes stored scores: all of it, unless `decide` applies the rest."""
        return self.identity()

    def decide(self, row: ScoreRow) -> ScoreRow:
        """Turn a stored row into this evaluator's verdict: a pure function of `row.values`, so it needs no image."""
        return row

    def note(self, rows: Sequence[ScoreRow]) -> str:
        """Say in a few words by which convention the metric of these rows was made; empty where its name says all."""
        return ""

    @property
    def headline(self) -> bool:
        """Say whether its metric may head a table; a judge that nobody calibrated may not where that is required."""
        return True

    def missing(self) -> str | None:
        """Return None when everything needed is there, else one line: what is missing and how to get it."""
        return None

    def downloads(self) -> Sequence[Download]:
        """Return what `python -m harness.prefetch` may fetch for it where something is missing."""
        return ()

    @abstractmethod
    def setup(self, device: str) -> None:
        """Load weights once per worker. Raises MissingResourceError."""

    @abstractmethod
    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        """Return one row per image, in order."""


class CompositeEvaluator(Evaluator):
    """Judges by what other evaluators of the cell said: no image is opened, nothing is stored."""

    parts: Sequence[str]  # names of the evaluators that it combines; compose adds those that a bench does not name

    @abstractmethod
    def combine(self, rows: Mapping[str, ScoreRow]) -> ScoreRow:
        """Return one image's row from its rows by part. Only called where every part has one."""

    def setup(self, device: str) -> None:
        return None

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        raise TypeError(f"{self.name} combines scores, it sees no images")


class SetEvaluator(Evaluator):
    """Extracts features; set-level metrics (FID, KID) are computed from them by pure functions."""

    kind: ClassVar[Kind] = "features"
    metrics: tuple[str, ...] = ("fid", "kid")

    @abstractmethod
    def features(self, batch: Sequence[ScoreItem]) -> np.ndarray:
        """Return (B, D) float32 features."""

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        raise TypeError(f"{self.name} scores sets, not images")
