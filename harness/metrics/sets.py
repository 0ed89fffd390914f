"""Set-level numbers from one extraction of features: FID, FID-infinity, KID, precision, recall, density, coverage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.lib.arrays import read_arrays
from harness.lib.reading import UnreadableFileError
from harness.metrics.frechet import frechet_distance, frechet_interval
from harness.metrics.infinity import FidInfinity, fid_infinity, fid_infinity_interval, subset_sizes
from harness.metrics.jackknife import JACKKNIFE
from harness.metrics.kernel import kernel_distance, kernel_interval
from harness.metrics.moments import Moments
from harness.metrics.prdc import NEAREST_K, prdc_intervals, prdc_scores
from harness.metrics.proportion import WILSON, Interval
from harness.metrics.reservoir import Reservoir, sample
from harness.records import Metric

FID_MIN_IMAGES = 2049  # with fewer, the covariance of 2048 features is singular and FID is far too high
KID_SUBSET = 1000
KEPT_ROWS = 10_000  # rows kept of a stream, for what needs more than moments: bounds memory
SQUARE_ROWS = 5_000  # a side, for what costs the square of it: distances of all pairs
INTERVAL_ROWS = 40  # two images per group of a jackknife
PRDC_NAMES = ("precision", "recall", "density", "coverage")
SET_METRICS = ("fid", "fid_infinity", "kid", *PRDC_NAMES)
HIGHER_IS_BETTER = frozenset(PRDC_NAMES)


@dataclass(frozen=True)
class ReferenceSet:
    """Features of the reference images, (N, D) float32, named by the hash of their bytes."""

    name: str
    features: NDArray[np.float32]

    @classmethod
    def load(cls, name: str, file: str | Path) -> ReferenceSet:
        """Read an npz file with `features`. Raises UnreadableFileError."""
        arrays = read_arrays(Path(file), ("features",))
        if arrays is None:
            raise UnreadableFileError(file, "it does not exist")
        features = arrays["features"]
        if features.ndim != 2 or features.dtype.kind != "f" or not features.size or not np.isfinite(features).all():
            raise UnreadableFileError(file, f"its features are {features.dtype} {features.shape}, not finite (N, D)")
        return cls(name, np.ascontiguousarray(features, dtype=np.float32))

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(str(self.features.shape).encode())
        digest.update(np.ascontiguousarray(self.features).data)
        return digest.hexdigest()


def set_metrics(
    shards: Iterable[NDArray[np.float32]], reference: ReferenceSet, extractor: str, seed: int, n_unknown: int = 0
) -> dict[str, Metric]:
    """Return every metric of SET_METRICS, of features given shard by shard, against the reference.

    One pass: moments of all rows, and a uniform choice of at most 10,000 for what needs the rows themselves. Neither
    depends on the order of shards. `n_unknown` counts images without features. FID below 2,049 images is flagged.
    """
    moments, rows = _stream(shards, reference, seed)
    where, other = _where(extractor, reference), Moments.of(reference.features)
    fid = _fid(moments, rows, other, where, n_unknown)
    if fid.value is None:
        return {name: replace(fid, higher_is_better=name in HIGHER_IS_BETTER) for name in SET_METRICS}
    counts = _Counts(moments.n, n_unknown, where)
    real = sample(reference.features, KEPT_ROWS, seed)
    return {
        "fid": fid,
        "fid_infinity": _fid_infinity(rows, fid.value, other, counts),
        "kid": _kid(rows, real, seed, counts),
        **_prdc(rows, real, counts),
    }


def frechet_metric(
    shards: Iterable[NDArray[np.float32]], reference: ReferenceSet, extractor: str, seed: int, n_unknown: int = 0
) -> Metric:
    """Return the Frechet distance alone of features, given shard by shard, to the reference."""
    moments, kept = _stream(shards, reference, seed)
    return _fid(moments, kept, Moments.of(reference.features), _where(extractor, reference), n_unknown)


def _stream(
    shards: Iterable[NDArray[np.float32]], reference: ReferenceSet, seed: int
) -> tuple[Moments, NDArray[np.float32]]:
    """Return moments of all rows, and a uniform choice of at most 10,000 in random order."""
    moments, kept = Moments.empty(reference.features.shape[1]), Reservoir(KEPT_ROWS, seed)
    for shard in shards:
        if len(shard):
            moments.update(shard)
            kept.add(shard)
    return moments, kept.rows()


def no_metric(note: str) -> Metric:
    """Return a distance that could not be measured, and why."""
    return Metric(None, None, None, 0, 0, False, note=note)


def no_set_metrics(note: str) -> dict[str, Metric]:
    """Return every metric of SET_METRICS without a value, and why."""
    return {name: Metric(None, None, None, 0, 0, name in HIGHER_IS_BETTER, note=note) for name in SET_METRICS}


@dataclass(frozen=True)
class _Counts:
    """What every note and metric of one comparison shares."""

    n: int
    n_unknown: int
    where: str

    def metric(
        self, value: float | None, note: str, higher_is_better: bool = False, interval: Interval | None = None,
        method: str | None = None,
    ) -> Metric:
        note = note if value is None else f"{note}; {self.where}"
        low, high = interval or (None, None)
        made = (method or JACKKNIFE) if interval else None
        return Metric(value, low, high, self.n, self.n_unknown, higher_is_better, note=note, ci_method=made)


def _where(extractor: str, reference: ReferenceSet) -> str:
    return f"{extractor} features; reference {reference.name} {reference.sha256[:12]} (n={len(reference.features)})"


def _fid(moments: Moments, rows: NDArray[np.float32], other: Moments, where: str, n_unknown: int) -> Metric:
    if moments.n < 2 or other.n < 2:
        return Metric(None, None, None, moments.n, n_unknown, False, note=f"fewer than two images; {where}")
    value = frechet_distance(moments.mean(), moments.covariance(), other.mean(), other.covariance())
    interval = frechet_interval(value, rows, other, len(rows) / moments.n) if len(rows) >= INTERVAL_ROWS else None
    smallest = min(moments.n, other.n)
    if smallest < FID_MIN_IMAGES:
        where = f"only {smallest} images, below {FID_MIN_IMAGES}: biased upward, compare equal n only; {where}"
    if interval is None:
        return Metric(value, None, None, moments.n, n_unknown, False, note=where)
    low = max(0.0, interval.low)  # a distance
    return Metric(value, low, interval.high, moments.n, n_unknown, False, note=where, ci_method=JACKKNIFE)


def _fid_infinity(rows: NDArray[np.float32], fid: float, other: Moments, counts: _Counts) -> Metric:
    dim = other.dim
    if not subset_sizes(len(rows), dim):
        return counts.metric(None, f"{len(rows)} images, {4 * dim} needed: see KID")
    if other.n <= dim:
        return counts.metric(None, f"{other.n} reference images of {dim} features: see KID")
    more = {counts.n: fid} if counts.n > len(rows) else {}
    result: FidInfinity = fid_infinity(rows, other, more)
    sizes = f"{len(result.sizes)} subsets of {result.sizes[0]} to {result.sizes[-1]}"
    interval = fid_infinity_interval(result.value, rows, other) if len(rows) >= INTERVAL_ROWS else None
    return counts.metric(result.value, f"line in 1/n over {sizes} (Chong and Forsyth 2020)", interval=interval)


def _kid(rows: NDArray[np.float32], real: NDArray[np.float32], seed: int, counts: _Counts) -> Metric:
    # Half of the smaller set at most: subsets that are the whole set would have no spread.
    size = min(KID_SUBSET, max(2, min(len(rows), len(real)) // 2))
    result = kernel_distance(rows, real, seed, subset_size=size)
    few = rows[:SQUARE_ROWS]
    interval = kernel_interval(result.mean, few, real, len(few) / len(rows)) if len(few) >= INTERVAL_ROWS else None
    note = f"sd over 100 subsets of {size} {result.sd:.4g}; drawn from {len(rows)} images"
    return counts.metric(result.mean, note, interval=interval)


def _prdc(rows: NDArray[np.float32], real: NDArray[np.float32], counts: _Counts) -> dict[str, Metric]:
    """Compare equal numbers: the rows come in random order, so their beginning is a uniform choice."""
    m = min(len(rows), len(real), SQUARE_ROWS)
    if m <= NEAREST_K:
        note = f"{m} images, and {NEAREST_K} neighbours are needed"
        return {name: counts.metric(None, note, True) for name in PRDC_NAMES}
    note = f"k={NEAREST_K}, {m} images a side"
    intervals: dict[str, Interval] = {}
    if m >= INTERVAL_ROWS:
        scores, intervals = prdc_intervals(real[:m], rows[:m])
    else:
        scores = prdc_scores(real[:m], rows[:m])
    return {
        name: counts.metric(value, note, True, intervals.get(name), WILSON if name == "precision" else None)
        for name, value in scores._asdict().items()
    }
