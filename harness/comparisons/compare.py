"""`harness.compare`: any cells of one bench, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from harness.checks import user_path
from harness.comparisons.compared import Asked, Compared, compare_folders
from harness.comparisons.export import csv_text, json_text, records, to_pandas
from harness.comparisons.finding import find_cells
from harness.comparisons.text import lines, notes, table


class Comparisons(Compared):
    """What was compared; `str()` of it is the table that the command prints, and notebooks show it as one."""

    def __str__(self) -> str:
        return "\n".join(lines(self))

    def _repr_html_(self) -> str:
        told = "".join(f"<p>{escape(line)}</p>" for line in notes(self))
        return table(self).html() + told

    def records(self) -> list[dict[str, Any]]:
        """Return one flat record a difference: the rows of the CSV file."""
        return records(self)

    def to_pandas(self) -> Any:
        """Return the records as a pandas data frame."""
        return to_pandas(self)

    def to_json(self) -> str:
        """Return all that is known of the comparisons, flips among it, as JSON."""
        return json_text(self)

    def to_csv(self) -> str:
        """Return the records as CSV."""
        return csv_text(self)


def compare(
    *cells: str | Path,
    results: str | Path = "results",
    metrics: Sequence[str] = (),
    noninferior: Mapping[str, float] | None = None,
    equivalent: Mapping[str, float] | None = None,
    all_pairs: bool = False,
    categories: bool = False,
) -> Comparisons:
    """Compare the first cell with each of the others, on every metric that both have: the difference is first - other.

    A cell is its folder, the beginning of its id, or words such as `"method=none bench=i2p"`. Images are paired by
    prompt and repeat. `noninferior` and `equivalent` map metrics to margins: in percentage points for rates, else in
    the metric's units. `all_pairs` compares each cell with each. p values are adjusted by Holm's method over all tests
    of the call; `metrics` names the only ones to make. Raises HarnessError.
    """
    folders = find_cells(cells, {}, user_path("results", str(results)))
    found = compare_folders(folders, Asked(tuple(metrics), noninferior, equivalent, all_pairs, categories))
    return Comparisons(found.pairs, found.family)
