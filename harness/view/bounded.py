"""What a results folder says of itself, as JSON of bounded size: one from elsewhere may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ITEMS, TEXT, DEPTH, NODES, LETTERS = 200, 2000, 12, 4000, 400_000
_EXACT = 2**53  # integers beyond it lose digits in a browser


def bounded(data: Any) -> Any:
    """Return plain data with at most so many items a list, letters a text, levels, values and letters in all."""
    return _Bounded().of(data)


def finite(value: float) -> float | None:
    """Return a number with the digits that a page shows; None for what is not finite."""
    return float(f"{value:.5g}") if value == value and abs(value) != float("inf") else None


class _Bounded:
    def __init__(self) -> None:
        self._left, self._letters = NODES, LETTERS

    def of(self, data: Any, depth: int = 0) -> Any:
        self._left -= 1
        if depth > DEPTH or self._left < 0 or self._letters < 0:
            return "..."
        if isinstance(data, Mapping):
            shown = {self._text(key): self.of(value, depth + 1) for key, value in list(data.items())[:ITEMS]}
            return shown | ({"...": f"{len(data) - ITEMS} more"} if len(data) > ITEMS else {})
        if isinstance(data, list | tuple):
            items = [self.of(value, depth + 1) for value in data[:ITEMS]]
            return items + ([f"... {len(data) - ITEMS} more"] if len(data) > ITEMS else [])
        if data is None or isinstance(data, bool):
            return data
        if isinstance(data, float):
            return finite(data)
        return data if isinstance(data, int) and abs(data) < _EXACT else self._text(data)

    def _text(self, value: Any) -> str:
        text = str(value)[:TEXT]
        self._letters -= len(text)
        return text
