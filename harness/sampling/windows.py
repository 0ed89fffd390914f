"""Windows of denoiser calls, as papers say them: the first and last call of a run of 50 steps, counted from 1."""

from __future__ import annotations

from harness.checks import check_integer
from harness.method import scaled_calls


def check_window(where: str, start: int, end: int | None) -> None:
    """Raise InvalidValueError unless 1 <= start <= end."""
    check_integer(f"{where}.start", start, 1, 1000)
    if end is not None:
        check_integer(f"{where}.end", end, start, 1000)


def in_window(call: int, n_calls: int, n_steps: int, start: int, end: int | None, window: str) -> bool:
    """Return whether 0-based `call` lies in the 1-based, inclusive window of a 50-step run."""
    first = scaled_calls(start - 1, n_steps, window)
    last = n_calls if end is None else scaled_calls(end, n_steps, window)
    return first <= call < last
