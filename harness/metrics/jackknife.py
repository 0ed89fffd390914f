"""How far a set-level number, such as FID, would move with other images from the same model."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.metrics.proportion import Interval

GROUPS = 20
JACKKNIFE = "jackknife"  # how these intervals are named where they are shown
T95 = 2.093024054408263  # 97.5 % quantile of Student's t with 19 degrees of freedom

Array = NDArray[np.float64]


def groups_of(n: int, groups: int = GROUPS) -> list[slice]:
    """Cut n rows into groups of equal size, but for one row. Raises ValueError for fewer rows than groups."""
    if n < groups:
        raise ValueError(f"{n} rows cannot make {groups} groups")
    edges = np.linspace(0, n, groups + 1).astype(int).tolist()
    return [slice(low, high) for low, high in pairwise(edges)]


def left_out(rows: NDArray[np.float32], statistic: Callable[[NDArray[np.float32]], float]) -> Array:
    """Return the statistic of (N, D) rows, in random order, without each of 20 groups in turn: (20,)."""
    return np.array([statistic(np.delete(rows, cut, axis=0)) for cut in groups_of(len(rows))])


def jackknife_interval(value: float, without: ArrayLike, share: float = 1.0) -> Interval:
    """Delete-a-group jackknife (Kott 2001, J. Official Statistics 17): value -+ t sd of the values without each group.

    sd^2 = (G - 1)/G sum (v_g - mean v)^2 of G = 20 values, t of 19 degrees of freedom. `share` is the part of all
    images that the groups were cut from: the variance falls with their number. It says how far the number would move
    with other images of this model, the reference being what it is; a bias, such as FID's at few images, is not in it,
    and images of one prompt count as independent.
    """
    values = np.asarray(without, dtype=np.float64)
    if values.shape != (GROUPS,) or not np.isfinite(values).all():
        raise ValueError(f"a jackknife needs {GROUPS} finite values")
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is not in (0, 1]")
    half = T95 * math.sqrt((GROUPS - 1) / GROUPS * ((values - values.mean()) ** 2).sum() * share)
    return Interval(value - half, value + half)
