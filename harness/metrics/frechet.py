"""Frechet distance of two Gaussians."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.metrics.jackknife import groups_of, jackknife_interval
from harness.metrics.moments import Moments
from harness.metrics.proportion import Interval

Array = NDArray[np.float64]
PIVOT_ERROR = 100  # a Cholesky pivot gathers the rounding errors of all before it


def frechet_distance(mu1: Array, sigma1: Array, mu2: Array, sigma2: Array) -> float:
    """FID (Heusel et al. 2017): |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    tr (S1 S2)^(1/2) is the sum of the singular values of R2^T R1 for any R R^T = S. With R the Cholesky factors these
    are the square roots of the eigenvalues of (R2^T R1)^T (R2^T R1), which is fastest. Where a covariance is singular,
    as of fewer images than features, those roots would be of rounding errors: there R holds the eigenvectors that carry
    variance, and singular values are taken. (D,) and (D, D) float64; raises ValueError for other shapes or what is not
    finite.
    """
    d = mu1.size
    if mu2.shape != mu1.shape or sigma1.shape != (d, d) or sigma2.shape != (d, d):
        raise ValueError(f"shapes do not fit: {mu1.shape}, {sigma1.shape}, {mu2.shape}, {sigma2.shape}")
    if not all(np.isfinite(x).all() for x in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("means and covariances must be finite")
    noise1, noise2 = _noise(mu1, sigma1), _noise(mu2, sigma2)
    root1, root2 = _cholesky(sigma1, noise1), _cholesky(sigma2, noise2)
    if root1 is None or root2 is None:
        cross = np.linalg.svd(_thin_root(sigma1, noise1).T @ _thin_root(sigma2, noise2), compute_uv=False).sum()
    else:
        half = root2.T @ root1
        cross = np.sqrt(np.clip(_eigenvalues(half.T @ half), 0, None)).sum()
    shift = mu1 - mu2
    return float(shift @ shift + np.trace(sigma1) + np.trace(sigma2) - 2 * cross)


def frechet_interval(value: float, rows: ArrayLike, reference: Moments, share: float = 1.0) -> Interval | None:
    """Return an interval of a FID for other generated images: `jackknife_interval` over 20 groups of (N, D) rows.

    In random order; `share` of all images. None if the images without a group are no more than the features: the
    covariance is then singular, and so few images say more of their number than of the model.
    """
    array = np.asarray(rows)
    whole, cuts = Moments.of(array), groups_of(len(array))
    if whole.n - max(cut.stop - cut.start for cut in cuts) <= whole.dim:
        return None
    mean, covariance = reference.mean(), reference.covariance()
    rest = (whole.without(Moments.of(array[cut])) for cut in cuts)
    without = [frechet_distance(one.mean(), one.covariance(), mean, covariance) for one in rest]
    return jackknife_interval(value, without, share)


def _eigenvalues(symmetric: Array) -> Array:
    """Return the eigenvalues, by torch: its LAPACK took half of NumPy's time for 2,048 features."""
    import torch

    values: Array = torch.linalg.eigvalsh(torch.from_numpy(symmetric)).numpy()
    return values


def _noise(mu: Array, sigma: Array) -> float:
    """Return the variance that rounding alone makes of one direction: sums of squares lose the digits of the mean's."""
    return float(mu.size * np.finfo(np.float64).eps * (np.diag(sigma).max() + np.square(mu).max()))


def _cholesky(sigma: Array, noise: float) -> Array | None:
    """Return the lower R with R R^T = sigma; None if sigma is singular, or as good as that."""
    try:
        root: Array = np.linalg.cholesky(sigma.astype(np.float64))
    except np.linalg.LinAlgError:
        return None
    return root if np.diag(root).min() ** 2 > PIVOT_ERROR * noise else None


def _thin_root(sigma: Array, noise: float) -> Array:
    """Return R with R R^T = sigma, (D, rank): eigenvalues that rounding alone could make are none."""
    values, vectors = np.linalg.eigh(sigma)
    kept = values > noise
    root: Array = vectors[:, kept] * np.sqrt(values[kept])
    return root
