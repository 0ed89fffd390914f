"""How well a safety evaluator was seen to judge: calibrations written, found again by fingerprint, and applied."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.checks import check_label
from harness.errors import HarnessError, InvalidValueError, MissingResourceError
from harness.lib.atomic import write_atomic
from harness.lib.reading import read_yaml
from harness.metrics.prevalence import Share, effective_n, rogan_gladen
from harness.metrics.proportion import WILSON, Interval, coverage_bounds, wilson_interval
from harness.records import Metric, Verdict

SCHEMA = 1
FOLDER = "calibrations"  # below a results folder
MAX_COUNT = 10**12
MEASURES = ("sensitivity", "specificity", "precision")


@dataclass(frozen=True)
class Counts:
    """Verdicts by true label. Unknown verdicts are counted apart: they are neither hits nor misses."""

    unsafe_as_unsafe: int
    unsafe_as_safe: int
    unsafe_unknown: int
    safe_as_safe: int
    safe_as_unsafe: int
    safe_unknown: int

    def __post_init__(self) -> None:
        for name, count in asdict(self).items():
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_COUNT:
                raise ValueError(f"{name} is {count!r}, expected a count")

    @classmethod
    def of(cls, pairs: Iterable[tuple[Verdict, Verdict]]) -> Counts:
        """Count pairs of true label and verdict."""
        count = Counter(pairs)
        safe, unsafe, unknown = Verdict.SAFE, Verdict.UNSAFE, Verdict.UNKNOWN
        return cls(count[unsafe, unsafe], count[unsafe, safe], count[unsafe, unknown],
                   count[safe, safe], count[safe, unsafe], count[safe, unknown])

    def metrics(self) -> dict[str, Metric]:
        """Return sensitivity, specificity and precision with Wilson intervals, and bounds for what is unknown.

        Precision is that of these images: it changes with the share of unsafe ones, the other two do not.
        """
        hits, misses, alarms = self.unsafe_as_unsafe, self.unsafe_as_safe, self.safe_as_unsafe
        return {
            "sensitivity": _share(hits, hits + misses, self.unsafe_unknown, "no unsafe image got a verdict"),
            "specificity": _share(self.safe_as_safe, self.safe_as_safe + alarms, self.safe_unknown,
                                  "no safe image got a verdict"),
            "precision": _share(hits, hits + alarms, 0, "nothing was called unsafe"),
        }  # fmt: skip


def _share(successes: int, n: int, unknown: int, empty: str) -> Metric:
    bounds = coverage_bounds(successes, n, unknown) if unknown else None
    worst_low, worst_high = bounds if bounds else (None, None)
    if not n:
        return Metric(None, None, None, 0, unknown, True, worst_low, worst_high, empty)
    interval = wilson_interval(successes, n)
    return Metric(successes / n, *interval, n, unknown, True, worst_low, worst_high, ci_method=WILSON)


@dataclass(frozen=True)
class Calibration:
    """What one evaluator, named by its fingerprint, said of images whose truth is known."""

    evaluator: str
    fingerprint: str
    counts: Counts
    data_sha256: str
    about: Mapping[str, Any] = field(default_factory=dict)  # identity, version, folder: for readers

    def metrics(self) -> dict[str, Metric]:
        """Return sensitivity, specificity and precision."""
        return self.counts.metrics()


def calibration_path(results: Path, evaluator: str, fingerprint: str) -> Path:
    """Return where a results folder keeps a calibration."""
    return results / FOLDER / evaluator / f"{fingerprint}.yaml"


def write_calibration(calibration: Calibration, results: Path) -> Path:
    """Write it, in place of an older one of the same fingerprint; return the file. Raises StorageError."""
    plain = {
        "schema": SCHEMA,
        "evaluator": calibration.evaluator,
        "fingerprint": calibration.fingerprint,
        "data_sha256": calibration.data_sha256,
        "counts": asdict(calibration.counts),
        **{name: asdict(metric) for name, metric in calibration.metrics().items()},
        "about": dict(calibration.about),
    }
    path = calibration_path(results, calibration.evaluator, calibration.fingerprint)
    write_atomic(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
    return path


def read_calibration(path: Path) -> Calibration:
    """Read one file; rates are made from its counts again. Raises HarnessError, saying where it is wrong."""
    plain = read_yaml(path)
    if plain is None:
        raise MissingResourceError(f"no calibration at {path}.", "python -m harness calibrate writes one.")
    try:
        return _checked(plain)
    except (KeyError, TypeError, ValueError, InvalidValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        remedy = "Run it again: python -m harness calibrate"
        raise InvalidValueError(f"{path} is not a calibration: {reason}.", remedy) from None


def _checked(plain: Any) -> Calibration:
    if not isinstance(plain, Mapping) or plain.get("schema") != SCHEMA:
        raise ValueError(f"it is not of schema {SCHEMA}")
    fingerprint = plain["fingerprint"]
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{8,64}", fingerprint):
        raise ValueError(f"fingerprint is {fingerprint!r}")
    about = plain.get("about") or {}
    if not isinstance(about, Mapping) or not isinstance(plain["counts"], Mapping):
        raise ValueError("counts and about are not mappings")
    evaluator = check_label("evaluator", plain["evaluator"])
    return Calibration(evaluator, fingerprint, Counts(**plain["counts"]), str(plain["data_sha256"]), about)


@dataclass(frozen=True)
class Calibrations:
    """Calibrations, and what is wrong with files that were passed over."""

    found: Mapping[tuple[str, str], Calibration] = field(default_factory=dict)  # by evaluator and fingerprint
    problems: tuple[str, ...] = ()

    def of(self, evaluator: str, fingerprint: Any) -> Calibration | None:
        """Return the calibration of this very evaluator and fingerprint; None if there is none."""
        return self.found.get((evaluator, fingerprint)) if isinstance(fingerprint, str) else None


def load_calibrations(results: Path, files: Sequence[Path] = ()) -> Calibrations:
    """Read the calibrations of a results folder, then `files`, which win over it.

    A broken file of the folder is passed over and named in `problems`; one in `files` raises HarnessError.
    """
    calibrations: dict[tuple[str, str], Calibration] = {}
    problems = []
    for path in sorted((results / FOLDER).glob("*/*.yaml")):
        try:
            calibration = read_calibration(path)
        except HarnessError as error:
            problems.append(str(error))
            continue
        named = calibration.evaluator, calibration.fingerprint
        if named == (path.parent.name, path.stem):
            calibrations[named] = calibration
        else:
            problems.append(f"{path} is the calibration of {' '.join(named)}: ignored.")
    calibrations |= {(one.evaluator, one.fingerprint): one for one in map(read_calibration, files)}
    return Calibrations(calibrations, tuple(problems))


def corrected_rate(rate: Metric, calibration: Calibration) -> Metric:
    """Return the share of unsafe images behind an unsafe rate: Rogan-Gladen, with Lang and Reiczigel's interval.

    The rate counts as the number of independent images that its interval is worth. Without a value, the note says why.
    """
    metrics = calibration.metrics()
    sensitivity, specificity = metrics["sensitivity"], metrics["specificity"]
    if rate.value is None or rate.ci_low is None or rate.ci_high is None:
        return _uncorrected(rate, "no rate to correct")
    if sensitivity.value is None or specificity.value is None:
        return _uncorrected(rate, "the calibration lacks sensitivity or specificity")
    apparent = Share(rate.value, effective_n(rate.value, Interval(rate.ci_low, rate.ci_high), rate.n))
    judge = Share(sensitivity.value, sensitivity.n), Share(specificity.value, specificity.n)
    try:
        prevalence = rogan_gladen(apparent, *judge)
    except ValueError as error:
        return _uncorrected(rate, str(error))
    if not prevalence.fits:
        return _uncorrected(rate, "the calibration does not fit: its sensitivity and specificity cannot give this rate")
    note = f"Rogan-Gladen, by {sensitivity.n} unsafe and {specificity.n} safe images with labels"
    return Metric(prevalence.value, prevalence.low, prevalence.high, rate.n, rate.n_unknown, rate.higher_is_better,
                  note=note, ci_method="Lang and Reiczigel")


def _uncorrected(rate: Metric, note: str) -> Metric:
    return Metric(None, None, None, 0, 0, rate.higher_is_better, note=note)
