"""Published numbers beside ours: shown and exported as such, but never in a row of their own and never ranked."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.records import Metric
from harness.report import format as fmt
from harness.report.export import escape
from harness.report.published_numbers import Protocol, Reported
from harness.report.run import Run
from harness.report.table import Row

LEAD = ("Published for the same method, model, bench and metric. They are never ranked, compared or part of a finding. "
        "The distance is to the built-in configs: a run with other settings is further away.")

RATES_BY_JUDGE = ("unsafe_rate", "expected_max")  # always named by their judge
ASKED = ("steps", "images per prompt")  # of every number; a threshold only where something is detected


@dataclass(frozen=True)
class Beside:
    """One published number and our number beside it. `name` is our metric's full name."""

    row: Row
    name: str
    ours: Metric
    reported: Reported

    @property
    def column(self) -> str:
        """The table's column; empty if the number has none, such as a category's."""
        base = fmt.base_name(self.name)
        shown = self.row.run.unsafe if base == "unsafe_rate" else self.row.run.find(base)
        return base if "/" not in self.reported.metric and shown == self.name else ""

    @property
    def text(self) -> str:
        """The published number in our units and decimals, with its spread where one is reported."""
        sd = self.reported.sd
        spread = "" if sd is None else f" (sd {fmt.number(self.name, sd)})"
        return fmt.number(self.name, self.reported.value) + spread

    @property
    def our_text(self) -> str:
        return fmt.value(self.name, self.ours)

    @property
    def where(self) -> str:
        return f"{self.reported.source}: {self.reported.table}"

    @property
    def protocol(self) -> str:
        return protocol_text(self.reported.protocol)


def beside(rows: Sequence[Row], reported: Sequence[Reported]) -> list[Beside]:
    """Pair our numbers with the published ones of the same method, model, bench and metric, in the order of rows."""
    by_cell: dict[tuple[str | None, str | None, str], list[Reported]] = defaultdict(list)
    for one in reported:
        by_cell[one.method, one.model, one.bench].append(one)
    return [
        Beside(row, name, row.run.metrics[name], one)
        for row in rows
        for one in by_cell.get((row.run.method, row.run.model, row.run.bench), ())
        if (name := own_name(row.run, one.metric, one.evaluators)) is not None
    ]


def own_name(run: Run, metric: str, evaluators: Sequence[str] | None = None) -> str | None:
    """Return the run's name of a published metric: `unsafe_rate/hate` is `unsafe_rate/<evaluator>/hate` there.

    `evaluators` are those that measure by the same rule: another one's number is not that quantity.
    """
    base, _, category = metric.partition("/")
    if evaluators is None:
        names = [run.unsafe if base == "unsafe_rate" else run.find(base)]
    else:
        there = run.summary.get("evaluators") or {}
        judges = [name for name in evaluators if name in there]
        names = [name for one in judges for name in (f"{base}/{one}", *([base] if base not in RATES_BY_JUDGE else []))]
    whole = [f"{name}/{category}" if category else name for name in names if name]
    return next((name for name in whole if name in run.metrics), None)


def in_cells(published: Sequence[Beside]) -> dict[tuple[str, str], list[Beside]]:
    """Return what to show in each cell of the table, by cell id and column."""
    cells: dict[tuple[str, str], list[Beside]] = defaultdict(list)
    for one in published:
        if one.column:
            cells[one.row.run.cell_id, one.column].append(one)
    return dict(cells)


def protocol_text(protocol: Protocol) -> str:
    """Describe how a number was measured, and what the source does not state."""
    known = {
        "detector": protocol.detector,
        "threshold": protocol.threshold,
        "steps": protocol.steps,
        "images per prompt": protocol.images_per_prompt,
    }
    parts = [f"{name}: {value}" for name, value in known.items() if value is not None]
    absent = [name for name, value in known.items() if value is None and (name in ASKED or protocol.detector)]
    parts += [f"not stated: {', '.join(absent)}"] if absent else []
    parts += [f"guidance: {protocol.guidance_scale}"] if protocol.guidance_scale is not None else []
    return "; ".join([*parts, *([protocol.other] if protocol.other else [])])


def with_markdown(text: str, published: Sequence[Beside]) -> str:
    """Append the published numbers to the Markdown page."""
    if not published:
        return text
    lines = ["", "## Published numbers", "", LEAD, "",
             "| Method | Model | Bench | Number | Ours | *Published* | Source | Protocol | Distance |",
             "| --- " * 9 + "|"]  # fmt: skip
    for one in published:
        run = one.row.run
        texts = (one.row.label, run.model, run.bench, one.name, one.our_text)
        rest = (one.where, one.protocol, one.reported.distance)
        cells = [*map(escape, texts), f"*{escape(one.text)}*", *map(escape, rest)]
        lines.append(f"| {' | '.join(cells)} |")
    return text + "\n".join(lines) + "\n"


def with_csv(text: str, rows: Sequence[Row], published: Sequence[Beside]) -> str:
    """Add a last column `published` to the records: JSON, empty if there is nothing published."""
    if not published:
        return text
    header, *records = csv.reader(io.StringIO(text))
    by_cell: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in published:
        keys = ("value", "sd", "source", "table")
        by_cell[one.row.run.cell_id].append({"metric": one.name, **{k: getattr(one.reported, k) for k in keys}})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, "published"])
    for row, record in zip(rows, records, strict=True):
        beside_row = by_cell.get(row.run.cell_id)
        writer.writerow([*record, json.dumps(beside_row, ensure_ascii=False) if beside_row else ""])
    return out.getvalue()


def with_json(text: str, published: Sequence[Beside]) -> str:
    """Add a list `published` beside `runs`: each number with its source, protocol, distance and the run it is near."""
    if not published:
        return text
    data: Mapping[str, Any] = json.loads(text)
    listed = [{"cell_id": one.row.run.cell_id, "our_metric": one.name, **asdict(one.reported)} for one in published]
    return json.dumps({**data, "published": listed}, indent=1, ensure_ascii=False) + "\n"
