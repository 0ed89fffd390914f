"""Frechet distance of two Gaussians."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def frechet_distance(mu1: Array, sigma1: Array, mu2: Array, sigma2: Array) -> float:
    """FID (Heusel et al. 2017): |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    tr (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of R^T S2 R for any R with S1 = R R^T: R is
    the Cholesky factor, or the scaled eigenvectors where S1 is singular. Needs no matrix square root of a product.
    """
    d = mu1.size
    if mu2.shape != mu1.shape or sigma1.shape != (d, d) or sigma2.shape != (d, d):
        raise ValueError(f"shapes do not fit: {mu1.shape}, {sigma1.shape}, {mu2.shape}, {sigma2.shape}")
    if not all(np.isfinite(x).all() for x in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("means and covariances must be finite")
    root = _root(sigma1)
    product = root.T @ sigma2 @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    shift = mu1 - mu2
    return float(shift @ shift + np.trace(sigma1) + np.trace(sigma2) - 2 * cross)


def _root(sigma: Array) -> Array:
    """Return any R with R R^T = sigma."""
    try:
        root: Array = np.linalg.cholesky(sigma.astype(np.float64))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(sigma)
        root = vectors * np.sqrt(np.clip(values, 0, None))
    return root
