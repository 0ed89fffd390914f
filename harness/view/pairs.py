"""Two cells of one bench side by side: what `harness.comparisons` finds of them, as the page reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from harness.cells.store import CellStore
from harness.comparisons.cells import compare_read
from harness.comparisons.sides import Side, side_of
from harness.errors import HarnessError
from harness.records import ImageKey, ScoreRow, Verdict
from harness.report.run import Run
from harness.view.cell import about_metric
from harness.view.columns import Columns
from harness.view.judge_column import LETTERS, JudgeColumn

_VERDICTS: dict[str, Verdict] = {letter: verdict for verdict, letter in LETTERS.items()}
_TOLD = ("value", "label", "error")


def pairs(run: Run, columns: Columns, base: Run, others: Columns) -> dict[str, Any]:
    """Return the comparison of two cells: differences are cell minus baseline.

    `judges` have McNemar's table: how many pairs are unsafe in both, in the cell only (`only_a_unsafe`), in the
    baseline only, in neither, or not judged in both. `other_prompts` are the cell's images whose prompt is another one
    in the baseline: they are no pairs. A comparison that cannot be made is an `error`.
    """
    head = {"version": f"{columns.version}-{others.version}", "cell": run.cell_id, "baseline": base.cell_id}
    broken = [one for one in (run, base) if not one.readable or one.folder is None]
    if broken:
        return head | {"error": f"{broken[0].name} is not finished: {'; '.join(broken[0].problems)}."}
    try:
        found = compare_read(_side(run, columns), _side(base, others))
    except HarnessError as error:
        return head | {"error": str(error)}
    return head | {
        "labels": [found["a"]["label"], found["b"]["label"]],
        "bench": found["bench"],
        "pairing": found["pairing"],
        "family": found["family"],
        "differences": found["differences"],
        "not_compared": found["not_compared"],
        "categories": {judge: [{**one, "category": one["metric"].split(f"/{judge}/", 1)[-1]} for one in parts]
                       for judge, parts in found["categories"].items()},
        "metrics": {one["metric"]: about_metric(run, one["metric"], one["higher_is_better"])
                    for one in found["differences"]},
        "judges": {name: {"table": one["table"], "p_value": one["p_value"]} for name, one in found["flips"].items()},
        "other_prompts": other_prompts(columns, others),
    }  # fmt: skip


def other_prompts(columns: Columns, others: Columns) -> list[int]:
    """Return the places of a cell's images whose id stands for another prompt in the baseline."""
    places = ((i, row, others.index.get(ImageKey(row.prompt_id, row.repeat))) for i, row in enumerate(columns.rows))
    return [i for i, row, j in places if j is not None and others.rows[j].prompt != row.prompt]


def _side(run: Run, columns: Columns) -> Side:
    """Return a cell as comparisons read it, without reading its files again."""
    assert run.folder is not None
    images = {key: columns.rows[i] for key, i in columns.index.items()}
    said = {} if columns.table is None else {
        name: _rows(columns, columns.table, one) for name, one in columns.judges.items()}  # fmt: skip
    return side_of(run, images, said, CellStore(run.folder, run.cell_id))


def _rows(columns: Columns, table: pa.Table, judge: JudgeColumn) -> list[ScoreRow]:
    places = np.flatnonzero(judge.at >= 0)
    kept = table.select([name for name in _TOLD if name in table.column_names]).take(pa.array(judge.at[places]))
    told = {name: kept[name].to_pylist() if name in kept.column_names else [None] * len(places) for name in _TOLD}
    return [ScoreRow(columns.rows[i].prompt_id, columns.rows[i].repeat, _VERDICTS.get(judge.verdicts[i]), value, label,
                     error=error)
            for i, value, label, error in zip(places.tolist(), *told.values(), strict=True)]  # fmt: skip
