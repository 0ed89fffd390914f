"""What the numbers mean: pure functions of rows and features. NumPy only."""

from harness.metrics.bootstrap import PairedDifference, cluster_bootstrap, paired_bootstrap
from harness.metrics.deviation import deviation_floor, deviation_interval, deviation_ratio, mean_deviation_ratio
from harness.metrics.expected_max import ExpectedMax, expected_max
from harness.metrics.frechet import frechet_distance
from harness.metrics.infinity import FidInfinity, fid_infinity
from harness.metrics.kernel import KernelDistance, kernel_distance
from harness.metrics.moments import Moments
from harness.metrics.paired import mcnemar_exact, newcombe_paired_difference
from harness.metrics.plain import read_json, write_json
from harness.metrics.prdc import Prdc, prdc_scores
from harness.metrics.proportion import Interval, coverage_bounds, wilson_interval
from harness.metrics.reservoir import Reservoir
from harness.metrics.sets import ReferenceSet, set_metrics
from harness.metrics.summary import CellMetrics, EvaluatorScores, summarise_cell

__all__ = [
    "CellMetrics",
    "EvaluatorScores",
    "ExpectedMax",
    "FidInfinity",
    "Interval",
    "KernelDistance",
    "Moments",
    "PairedDifference",
    "Prdc",
    "ReferenceSet",
    "Reservoir",
    "cluster_bootstrap",
    "coverage_bounds",
    "deviation_floor",
    "deviation_interval",
    "deviation_ratio",
    "expected_max",
    "fid_infinity",
    "frechet_distance",
    "kernel_distance",
    "mcnemar_exact",
    "mean_deviation_ratio",
    "newcombe_paired_difference",
    "paired_bootstrap",
    "prdc_scores",
    "read_json",
    "set_metrics",
    "summarise_cell",
    "wilson_interval",
    "write_json",
]
