"""Any two cells compared: differences, flips, margins, power, the gate of nightly runs, and their history."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Find the names of the module that was called so before there were rooms."""
    from harness.cells import comparisons

    return getattr(comparisons, name)
