"""SVG text from numbers: escaping, scales, ticks, and colours by class so that light and dark come from CSS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

PALETTE_SIZE = 10
BASELINE = "none"


def element(tag: str, content: str = "", /, **attributes: object) -> str:
    """Return one element. `class_` and `data_tip` become `class` and `data-tip`; values are escaped, content is not."""
    pairs = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    text = "".join(f' {key}="{_text(value)}"' for key, value in pairs.items())
    return f"<{tag}{text}>{content}</{tag}>"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return escape(str(value), quote=True)


def text(content: str, /, **attributes: object) -> str:
    """Return a text element with its content escaped."""
    return element("text", escape(content), **attributes)


def colours(methods: Iterable[str]) -> dict[str, str]:
    """Return a CSS class for each method; the baseline is always the neutral one."""
    others = sorted(set(methods) - {BASELINE})
    return {BASELINE: "s-base"} | {name: f"s{i % PALETTE_SIZE}" for i, name in enumerate(others)}


@dataclass(frozen=True)
class Scale:
    """A linear map from [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values inside [low, high], about `count` of them."""
    raw = (high - low) / max(count, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Return the range of values with a margin; never empty."""
    low, high = min(values), max(values)
    margin = (high - low) * share or max(abs(high) * share, 0.01)
    return low - margin, high + margin
