"""The value of a cell's text: an integer, a number, or nothing, as spreadsheets and data frames write them."""

from __future__ import annotations

import math
import re

_NOTHING = frozenset({"", "nan", "none", "null", "nil", "na", "n/a", "<na>", "#n/a", "nat"})
_WHOLE = re.compile(r"([+-]?[0-9]{1,40})(\.0*)?")
_ROUND = re.compile(r"([0-9]{1,11})[eE]\+?([0-9]{1,2})")  # such as 1e5
_EXACT = 2**53  # above, a float has lost digits
_EXACT_ROUND = 10**11  # from here on, spreadsheets write whole numbers with an exponent, rounded


def is_missing(text: str | None) -> bool:
    """Return whether a cell of a column of numbers holds none."""
    return text is None or text.strip().casefold() in _NOTHING


def is_null_text(text: str) -> bool:
    """Return whether a text is what a missing one becomes where a data frame's cells are made texts."""
    return text.strip() in ("nan", "NaN", "<NA>")


def whole_number(text: str) -> int:
    """Return an integer: `123`, `123.0`, `1e5`. Raises ValueError, also where the writing may have lost digits."""
    digits = _WHOLE.fullmatch(text.strip())
    if digits:
        value = int(digits[1])
        if digits[2] and abs(value) > _EXACT:
            raise ValueError("digits were lost when it was written as a float")
        return value
    short = _ROUND.fullmatch(text.strip())
    value = int(short[1]) * 10 ** int(short[2]) if short else _EXACT_ROUND
    if value >= _EXACT_ROUND:
        raise ValueError("not an integer, or one whose digits were lost")
    return value


def number(text: str) -> float:
    """Return a finite number with a decimal point. Raises ValueError."""
    value = float(text.strip()) if "_" not in text else math.nan
    if not math.isfinite(value):
        raise ValueError("not finite")
    return value


def without_point(text: str) -> str:
    """Return `12.0` as `12` and other texts stripped: ids as a data frame writes them."""
    digits = _WHOLE.fullmatch(text.strip())
    return digits[1] if digits else text.strip()
