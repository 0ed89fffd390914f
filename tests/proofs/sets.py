"""Metrics of sets of features, against clean-fid."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np

from tests.proofs.measure import ROUNDS, Proof, seconds


def frechet(folder: Path) -> Proof:
    """clean-fid's functions of features."""
    from cleanfid import fid as cleanfid

    from harness.metrics import frechet_distance, kernel_distance

    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(2500, 2048)) + shift for shift in (0, 0.01)]
    (mu1, s1), (mu2, s2) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in sets)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cleanfid.frechet_distance(mu1, s1, mu2, s2)
    reference = time.perf_counter() - began
    own = min(seconds(lambda: frechet_distance(mu1, s1, mu2, s2)) for _ in range(ROUNDS))
    relative = abs(frechet_distance(mu1, s1, mu2, s2) / theirs - 1)
    small = [x[:200, :64].astype(np.float32) for x in sets]
    np.random.seed(0)  # clean-fid draws its subsets from NumPy's global state
    kid = cleanfid.kernel_distance(*small, num_subsets=1, max_subset_size=200)
    ours = kernel_distance(*small, seed=0, subsets=1, subset_size=200).mean
    said = f"FID of 2,048 features: relative difference {relative:.0e}; KID: {abs(kid - ours):.0e}"
    return Proof("clean-fid's `frechet_distance`, `kernel_distance`", "none needed", said, f"{reference / own:.0f} x")
