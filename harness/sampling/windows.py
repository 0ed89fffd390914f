"""Windows of denoiser calls, as papers say them: the first and last call of a run of 50 steps, counted from 1."""

from __future__ import annotations

from harness.errors import InvalidValueError
from harness.method import scaled_calls


def check_window(where: str, start: int, end: int | None) -> None:
    """Raise InvalidValueError unless start <= end; that each is a call has been checked."""
    if end is not None and end < start:
        raise InvalidValueError(f"{where}.end={end}: expected an integer from {start}, its start, to 1000.")


def in_window(call: int, n_calls: int, n_steps: int, start: int, end: int | None, window: str) -> bool:
    """Return whether 0-based `call` is in the 1-based, inclusive window of a 50-step run."""
    first = scaled_calls(start - 1, n_steps, window)
    last = n_calls if end is None else scaled_calls(end, n_steps, window)
    return first <= call < last
