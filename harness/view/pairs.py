"""Two cells of one bench, image by image: same prompt, repeat and seed. A difference is cell minus baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from harness.cells.comparable import mapping
from harness.metrics.aggregate import Pair, value_comparison, verdict_comparison
from harness.metrics.multiplicity import holm
from harness.records import Comparison, ImageKey, ScoreRow
from harness.report.run import Run
from harness.view.columns import Columns
from harness.view.judge_column import LETTERS, JudgeColumn

_VERDICTS = {letter: verdict for verdict, letter in LETTERS.items()}
TABLE = ("uu", "us", "su", "ss")  # the baseline's letter, then the cell's
Places = list[tuple[int, int]]


def pairs(run: Run, columns: Columns, base: Run, others: Columns) -> dict[str, Any]:
    """Return what every shared evaluator says of the pairs: counts, difference, test, and the same by category.

    Only evaluators of one fingerprint are compared. p values of categories are adjusted by Holm's method within an
    evaluator.
    """
    places = paired(columns, others)
    shared = [name for name in columns.judges if name in others.judges and _same(run, base, name)]
    return {
        "version": f"{columns.version}-{others.version}",
        "cell": run.cell_id,
        "baseline": base.cell_id,
        "n_pairs": len(places),
        "n_only_cell": len(columns.rows) - len(places),
        "n_only_baseline": len(others.rows) - len(places),
        "not_compared": sorted({*columns.judges, *others.judges} - set(shared)),
        "judges": {name: _of_judge(columns, others, name, places, base.name) for name in shared},
    }


def paired(columns: Columns, others: Columns) -> Places:
    """Return the images of both cells, by their places, that share prompt, repeat and seed."""
    found = []
    for i, row in enumerate(columns.rows):
        j = others.index.get(ImageKey(row.prompt_id, row.repeat))
        if j is not None and others.rows[j].seed == row.seed:
            found.append((i, j))
    return found


def _same(run: Run, base: Run, name: str) -> bool:
    known = [mapping(mapping(one.summary.get("evaluators")).get(name)).get("fingerprint") for one in (run, base)]
    return known[0] is not None and known[0] == known[1]


def _of_judge(columns: Columns, others: Columns, name: str, places: Places, base: str) -> dict[str, Any]:
    ours, theirs = columns.judges[name], others.judges[name]
    whole = _compared(columns, ours, theirs, places, base)
    by_category: dict[str, Places] = {}
    for pair in places:
        for category in columns.rows[pair[0]].category:
            by_category.setdefault(category, []).append(pair)
    parts = {category: _compared(columns, ours, theirs, some, base) for category, some in sorted(by_category.items())}
    tested = [one for one in parts.values() if one["comparison"] and one["comparison"]["p_value"] is not None]
    for one, p in zip(tested, holm([one["comparison"]["p_value"] for one in tested]), strict=True):
        one["comparison"]["p_adjusted"] = float(p)
    return {**whole, "is_judge": ours.is_judge, "categories": parts}


def _compared(columns: Columns, ours: JudgeColumn, theirs: JudgeColumn, places: Places, base: str) -> dict[str, Any]:
    counts = Counter(theirs.verdicts[j] + ours.verdicts[i] for i, j in places) if ours.is_judge else Counter[str]()
    table = {key: counts[key] for key in TABLE}
    unknown = sum(counts.values()) - sum(table.values())
    compare = verdict_comparison if ours.is_judge else value_comparison
    comparison = compare(_rows(columns, ours, theirs, places), base, 0)
    return {"table": table, "n_unknown": unknown, "comparison": _record(comparison)}


def _rows(columns: Columns, ours: JudgeColumn, theirs: JudgeColumn, places: Places) -> Sequence[Pair]:
    return [(columns.rows[i], _score(columns, ours, i, i), _score(columns, theirs, i, j)) for i, j in places]


def _score(columns: Columns, judge: JudgeColumn, image: int, place: int) -> ScoreRow:
    row, number = columns.rows[image], float(judge.scores[place])
    value = None if judge.is_judge or not np.isfinite(number) else number
    return ScoreRow(row.prompt_id, row.repeat, _VERDICTS.get(judge.verdicts[place]), value)


def _record(comparison: Comparison | None) -> dict[str, Any] | None:
    """Return a comparison as JSON; what is not a number is null."""
    if comparison is None:
        return None
    record: Mapping[str, Any] = asdict(comparison)
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()}
