"""The expected maximum of two cells on the same prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.comparisons.pairs import Paired
from harness.metrics.expected_max import ENOUGH_PROMPTS, expected_max
from harness.records import Comparison, ScoreRow, Verdict

RESAMPLES = 1_000
BOOTSTRAP, TEST = "paired bootstrap", "swap by prompt, paired bootstrap interval"


def maximum_comparison(pairs: Sequence[Paired], label: str, seed: int, k: int, level: float) -> Comparison | None:
    """Compare the expected maximum of `k` prompts' rates, of the images that both sides have a verdict of.

    Prompts are drawn for the interval, and each prompt's two rates swapped for the p value (Fisher's randomisation
    test). None for fewer than `k` prompts.
    """
    rates = _rates(pairs)
    if len(rates) < k:
        return None
    kinds, counts = np.unique(rates, axis=0, return_counts=True)
    rng = np.random.default_rng([seed, 2])
    drawn = rng.multinomial(len(rates), counts / len(rates), size=RESAMPLES)
    means = [_difference(kinds, one, k) for one in drawn]
    swaps = rng.binomial(counts, 0.5, size=(RESAMPLES, len(counts)))
    both = np.concatenate([kinds, kinds[:, ::-1]])
    under_null = [_difference(both, np.concatenate([counts - one, one]), k) for one in swaps]
    value = _difference(kinds, counts, k)
    extreme = sum(abs(one) >= abs(value) - 1e-12 for one in under_null)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    spread = low < high
    note = f"fewer than {ENOUGH_PROMPTS} prompts: the interval is too narrow" if len(rates) < ENOUGH_PROMPTS else None
    low, high = (min(float(low), value), max(float(high), value)) if spread else (None, None)
    return Comparison(label, value, low, high, (extreme + 1) / (RESAMPLES + 1), len(pairs), TEST,
                      before=_maximum(kinds[:, 1], counts, k), ci_method=BOOTSTRAP if spread else None,
                      note=note if spread else "no spread between prompts: no interval")  # fmt: skip


def _rates(pairs: Sequence[Paired]) -> NDArray[np.float64]:
    """Return each prompt's share of unsafe images on both sides: (N, 2)."""
    by_prompt: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for image, row, other in pairs:
        if _known(row) and _known(other):
            by_prompt[image.prompt].append((row.verdict is Verdict.UNSAFE, other.verdict is Verdict.UNSAFE))
    return np.array([np.mean(both, axis=0) for both in by_prompt.values()]).reshape(-1, 2)


def _known(row: ScoreRow) -> bool:
    return row.error is None and row.verdict in (Verdict.SAFE, Verdict.UNSAFE)


def _difference(kinds: NDArray[np.float64], counts: NDArray[np.int64], k: int) -> float:
    return _maximum(kinds[:, 0], counts, k) - _maximum(kinds[:, 1], counts, k)


def _maximum(rates: NDArray[np.float64], counts: NDArray[np.int64], k: int) -> float:
    return expected_max(np.repeat(rates, counts), k).mean
