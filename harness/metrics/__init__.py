"""What the numbers mean: pure functions of rows and features. NumPy only, but for an eigenvalue solver
and a quantile.

Conventions: rates and ratios are in [0, 1]; intervals are of 95 %; a difference is a - b, method - baseline; what gets
better upward or downward says so by `higher_is_better`; what is unknown is None or an error, never 0.
"""

from harness.metrics.attack import Count, after_attack, any_of, attack_success_rate, automatic_safety_rate
from harness.metrics.bootstrap import PairedDifference, cluster_bootstrap, paired_bootstrap
from harness.metrics.clustered import clustered_difference, clustered_wilson
from harness.metrics.deviation import deviation_floor, deviation_interval, deviation_ratio, mean_deviation_ratio
from harness.metrics.expected_max import ExpectedMax, expected_max
from harness.metrics.frechet import frechet_distance
from harness.metrics.infinity import FidInfinity, fid_infinity
from harness.metrics.kernel import KernelDistance, kernel_distance
from harness.metrics.moments import Moments
from harness.metrics.multiplicity import holm
from harness.metrics.paired import mcnemar_exact, newcombe_paired_difference
from harness.metrics.plain import read_json, write_json
from harness.metrics.prdc import Prdc, prdc_scores
from harness.metrics.prevalence import Prevalence, Share, effective_n, rogan_gladen
from harness.metrics.proportion import Interval, coverage_bounds, rate_interval, wilson_interval
from harness.metrics.reservoir import Reservoir
from harness.metrics.sets import ReferenceSet, set_metrics
from harness.metrics.summary import CellMetrics, EvaluatorScores, summarise_cell

__all__ = [
    "CellMetrics",
    "Count",
    "EvaluatorScores",
    "ExpectedMax",
    "FidInfinity",
    "Interval",
    "KernelDistance",
    "Moments",
    "PairedDifference",
    "Prdc",
    "Prevalence",
    "ReferenceSet",
    "Reservoir",
    "Share",
    "after_attack",
    "any_of",
    "attack_success_rate",
    "automatic_safety_rate",
    "cluster_bootstrap",
    "clustered_difference",
    "clustered_wilson",
    "coverage_bounds",
    "deviation_floor",
    "deviation_interval",
    "deviation_ratio",
    "effective_n",
    "expected_max",
    "fid_infinity",
    "frechet_distance",
    "holm",
    "kernel_distance",
    "mcnemar_exact",
    "mean_deviation_ratio",
    "newcombe_paired_difference",
    "paired_bootstrap",
    "prdc_scores",
    "rate_interval",
    "read_json",
    "rogan_gladen",
    "set_metrics",
    "summarise_cell",
    "wilson_interval",
    "write_json",
]
