"""The bare model: what every other method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.method import Method


@dataclass(frozen=True)
class NoMethod(Method):
    """Change nothing: the denoiser's rows pass untouched, to the bit."""

    name: str = "none"

    kind: ClassVar[str] = "none"
    changes_nothing: ClassVar[bool] = True
