"""Calibration of the judge behind a run's unsafe rate: shown only for the evaluator that was calibrated."""

from __future__ import annotations

from harness.cells.calibration import Calibrations, corrected_rate
from harness.records import Metric
from harness.report.run import Run

CORRECTED = "corrected_unsafe_rate"


def beside(run: Run, calibrations: Calibrations, corrected: bool) -> dict[str, Metric]:
    """Return sensitivity and specificity of the judge of the run's unsafe rate and, if asked, the corrected rate.

    Empty for a run whose evaluator, by name and fingerprint, has no calibration; a corrected rate then says so.
    """
    rate = run.metric(run.unsafe)
    if rate is None or run.unsafe is None:
        return {}
    evaluator = run.unsafe.split("/")[1]
    known = (run.summary.get("evaluators") or {}).get(evaluator)
    fingerprint = known.get("fingerprint") if isinstance(known, dict) else None
    calibration = calibrations.of(evaluator, fingerprint)
    if calibration is None:
        note = f"no calibration of {evaluator} {fingerprint or 'without a fingerprint'}"
        return {CORRECTED: Metric(None, None, None, 0, 0, False, note=note)} if corrected else {}
    metrics = calibration.metrics()
    shown = {name: metrics[name] for name in ("sensitivity", "specificity")}
    return shown | ({CORRECTED: corrected_rate(rate, calibration)} if corrected else {})
