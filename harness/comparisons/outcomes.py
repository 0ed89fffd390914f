"""What a prompt's images come to under two methods: the law of the counts of unsafe ones, with correlated verdicts.

Verdicts follow a latent normal: image r of prompt i is unsafe under method x where sqrt(l_x) u_xi + sqrt(1 - l_x) e_xir
lies below the quantile of the rate. l_x gives images of one prompt their intraclass correlation; u and e of the two
methods are correlated alike, which gives pairs theirs. Correlations are those of the 0/1 verdicts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from harness.errors import InvalidValueError

Array = NDArray[np.float64]
NODES = 61  # a side, of the grid over the effects of a prompt
REACH = 6.0
CLOSEST = 0.995  # of a latent correlation; the grid is too coarse beyond


@dataclass(frozen=True)
class Verdicts:
    """Two rates of unsafe images, how alike images of one prompt are, and how alike the two images of a pair.

    `correlation` is None where the two methods are measured on different prompts.
    """

    rate_a: float
    rate_b: float
    repeats: int = 1
    icc: float = 0.0
    correlation: float | None = 0.0


def outcome_law(of: Verdicts) -> Array:
    """Return the law of a prompt's counts of unsafe images under both methods: (repeats + 1, repeats + 1).

    Raises InvalidValueError for correlations that these rates cannot have.
    """
    within = [_latent_within(rate, of.icc) if of.repeats > 1 else 0.0 for rate in (of.rate_a, of.rate_b)]
    tau = _latent_between(of, within)
    if max(within) == 0:
        a, b = np.array([ndtri(of.rate_a)]), np.array([ndtri(of.rate_b)])
        return np.asarray(_of_images(_cells(a, b, tau), of.repeats)[0])
    u, weights = _grid()
    u_a, u_b = np.meshgrid(u, u, indexing="ij")
    u_b = tau * u_a + np.sqrt(1 - tau * tau) * u_b
    a, b = (((ndtri(rate) - np.sqrt(share) * effect) / np.sqrt(1 - share)).ravel()
            for rate, share, effect in ((of.rate_a, within[0], u_a), (of.rate_b, within[1], u_b)))
    law: Array = np.tensordot(np.outer(weights, weights).ravel(), _of_images(_cells(a, b, tau), of.repeats), 1)
    return law


def _grid() -> tuple[Array, Array]:
    """Return nodes and weights for the mean over a standard normal."""
    u = np.linspace(-REACH, REACH, NODES)
    weights = np.exp(-u * u / 2)
    return u, weights / weights.sum()


def both_unsafe(a: Array, b: Array, tau: float) -> Array:
    """Return P(x < a, y < b) of standard normals with correlation tau: the mean over what the two share."""
    if tau == 0:
        return np.asarray(ndtr(a) * ndtr(b))
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    shared, own = np.sqrt(abs(tau)) * nodes, np.sqrt(1 - abs(tau))
    sign = 1 if tau > 0 else -1
    inside = ndtr((a[:, None] - shared) / own) * ndtr((b[:, None] - sign * shared) / own)
    return np.asarray(inside @ (weights / weights.sum()))


def _cells(a: Array, b: Array, tau: float) -> Array:
    """Return the chances that one image is unsafe under both, a alone, b alone, neither: (nodes, 2, 2)."""
    both = both_unsafe(a, b, tau)
    only_a, only_b = ndtr(a) - both, ndtr(b) - both
    cells: Array = np.stack([1 - both - only_a - only_b, only_b, only_a, both], axis=1).reshape(-1, 2, 2)
    return np.clip(cells, 0.0, 1.0)


def _of_images(cells: Array, repeats: int) -> Array:
    """Return the law of the counts of `repeats` images that are alike and independent: (nodes, r + 1, r + 1)."""
    law = np.ones((len(cells), 1, 1))
    for count in range(repeats):
        longer = np.zeros((len(cells), count + 2, count + 2))
        for i, j in np.ndindex(2, 2):
            longer[:, i:i + count + 1, j:j + count + 1] += law * cells[:, i, j, None, None]
        law = longer
    return law


def _latent_within(rate: float, icc: float) -> float:
    """Return the latent share of a prompt's effect that gives verdicts this intraclass correlation."""
    if icc == 0:
        return 0.0
    t = np.array([ndtri(rate)])
    wanted = icc * rate * (1 - rate) + rate * rate
    if float(both_unsafe(t, t, CLOSEST)[0]) < wanted:
        raise InvalidValueError(f"icc={icc:g} is too close to 1 at a rate of {100 * rate:g} %.", "Use repeats=1.")
    return float(brentq(lambda share: float(both_unsafe(t, t, share)[0]) - wanted, 0.0, CLOSEST))


def _latent_between(of: Verdicts, within: list[float]) -> float:
    """Return the correlation of the methods' effects and rests that gives a pair's verdicts theirs."""
    if not of.correlation:
        return 0.0
    a, b = (np.array([ndtri(rate)]) for rate in (of.rate_a, of.rate_b))
    joint = _joint(within)
    low, high = _allowed(of, joint)
    if not low <= of.correlation <= high:
        raise InvalidValueError(f"correlation={of.correlation:g}: rates of {100 * of.rate_a:g} % and "
                                f"{100 * of.rate_b:g} % allow {low:.2f} to {high:.2f}.")
    if min(of.correlation - low, high - of.correlation) < 1e-9:
        return -CLOSEST if of.correlation < 0 else CLOSEST
    wanted = of.correlation * _spread(of) + of.rate_a * of.rate_b
    return float(brentq(lambda tau: float(both_unsafe(a, b, tau * joint)[0]) - wanted, -CLOSEST, CLOSEST))


def allowed_correlations(of: Verdicts) -> tuple[float, float]:
    """Return between which correlations of a pair's verdicts the rates and `icc` leave room."""
    return _allowed(of, _joint([_latent_within(rate, of.icc) if of.repeats > 1 else 0.0
                                for rate in (of.rate_a, of.rate_b)]))  # fmt: skip


def _joint(within: list[float]) -> float:
    return float(np.sqrt(within[0] * within[1]) + np.sqrt((1 - within[0]) * (1 - within[1])))


def _spread(of: Verdicts) -> float:
    return float(np.sqrt(of.rate_a * (1 - of.rate_a) * of.rate_b * (1 - of.rate_b)))


def _allowed(of: Verdicts, joint: float) -> tuple[float, float]:
    a, b = (np.array([ndtri(rate)]) for rate in (of.rate_a, of.rate_b))
    low, high = ((float(both_unsafe(a, b, tau * joint)[0]) - of.rate_a * of.rate_b) / _spread(of)
                 for tau in (-CLOSEST, CLOSEST))  # fmt: skip
    return low, high
