"""Which papers' protocols a run follows, and how it departs from them."""

from __future__ import annotations

from typing import Any

from harness.cells.followed import Followed, read_told
from harness.report.run import Run


def protocols_of(run: Run) -> list[Followed]:
    """Return the protocols that a run's summary tells of."""
    return read_told(run.summary)


def columns(run: Run) -> dict[str, Any]:
    """Return what the CSV file says: the protocols by name with their choices, and the departures from them."""
    told = protocols_of(run)
    departures = [f"{one.name}: {text}" for one in told for text in one.departures]
    return {"protocol": "; ".join(one.label for one in told) or None,
            "protocol_departures": "; ".join(departures) or None}
