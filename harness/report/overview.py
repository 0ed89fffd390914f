"""One table over several benches: one row per method, the columns that the configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from harness.cells.settings import OverviewColumn
from harness.report import format as fmt
from harness.report import trainings
from harness.report.comparable import differences
from harness.report.run import Run, judge_name
from harness.report.variants import Variant, variants

DASH = "\N{EM DASH}"
SPECIAL = ("training_seconds", "relative_seconds")


def overview(runs: Sequence[Run], columns: Sequence[OverviewColumn], order: Sequence[str]) -> str:
    """Return a Markdown table, methods in `order`; what was not measured is a dash, what failed says so.

    A method whose settings or models differ among `runs` has a row for each; so have runs that differ otherwise, such
    as by their seed, numbered. Runs that are not comparable with others of their bench say so, as limited ones do.
    """
    readable = [run for run in runs if run.readable]
    named, models = variants(readable), {run.model for run in readable}
    rows: dict[tuple[Variant, int], dict[str, Run]] = {}
    differs = differences(readable)
    for run in readable:
        variant = named[run.cell_id]
        turn = next(n for n in count(1) if run.bench not in rows.get((variant, n), {}))
        rows.setdefault((variant, turn), {})[run.bench] = run
    lines = [_line(["method", *(_title(column, readable) for column in columns)]), "|---" * (len(columns) + 1) + "|"]
    for (variant, turn), by_bench in sorted(rows.items(), key=lambda row: _place(order, row[0][0].method)):
        label = f"{variant.model}/{variant.label}" if len(models) > 1 else variant.label
        label += f" ({turn})" if turn > 1 else ""
        told = dict.fromkeys(differs.get(run.cell_id, "") for run in by_bench.values())
        label += "".join(f"; {text}" for text in told if text)
        base = {bench: baseline for bench, run in by_bench.items() if (baseline := _baseline(run, readable))}
        if variant.method in order:
            lines.append(_line([label, *(_cell(column, by_bench, base) for column in columns)]))
    return "\n".join([*lines, *_notes(readable, columns)]) + "\n"


def _notes(runs: Sequence[Run], columns: Sequence[OverviewColumn]) -> list[str]:
    """Return notes on which part of a bench the runs have, and what p values are adjusted for."""
    shown = {column.bench for column in columns}
    notes = [f"{run.bench}: {run.part}" for run in runs if run.part and run.bench in shown]
    if any(column.difference for column in columns) and any(run.against for run in runs):
        notes.append("adjusted p: Holm's method over all methods in the results folder that are compared with that "
                     "baseline by the same metric on the same model and bench")
    return ["", *dict.fromkeys(notes)] if notes else []


def _title(column: OverviewColumn, runs: Sequence[Run]) -> str:
    """Return a column's title, with the judge of its rate if all rows share it."""
    judges = {judge_name(run, name) for run in runs if run.bench == column.bench and (name := run.find(column.metric))}
    judge = judges.pop() if len(judges) == 1 and column.metric.endswith("_rate") else None
    return f"{column.title} (by {judge})" if judge and judge not in column.title else column.title


def _baseline(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the run's baseline, which is sampled alike; the base model's run if it does not say."""
    against = run.baseline
    wanted = against.cell_id if against else (run.summary.get("cell") or {}).get("baseline_cell")
    if wanted:
        return next((other for other in runs if other.cell_id == wanted), None)
    name = against.label if against else "none"
    same = [other for other in reversed(runs) if (other.name, other.model, other.bench) == (name, run.model, run.bench)]
    return run if run in same else next(iter(same), None)


def _place(order: Sequence[str], method: str) -> int:
    return order.index(method) if method in order else len(order)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cell(column: OverviewColumn, by_bench: Mapping[str, Run], base: Mapping[str, Run]) -> str:
    if column.metric == "training_seconds":
        return _training_seconds(next(iter(by_bench.values())))
    run = by_bench.get(str(column.bench))
    if run is None:
        return DASH
    if column.metric == "relative_seconds":
        return _relative_seconds(run, base.get(str(column.bench)))
    name = run.find(column.metric)
    metric = run.metric(name)
    if name is None or metric is None:
        return DASH
    text = f"{fmt.value(name, metric)} {fmt.interval(name, metric)}".strip()
    shown = run.metric(f"shown_{name}")
    if shown is not None:  # some prompts were refused: the share of all prompts is what compares with the baseline
        name, text = f"shown_{name}", f"{text} of those generated, {fmt.value(name, shown)} of all"
    compared = [(label, against.comparisons[name]) for label, against in run.against.items()
                if column.difference and name in against.comparisons]  # fmt: skip
    told = (", ".join(filter(None, (f"{fmt.difference(name, one)} against {label}", fmt.p_values(one),
                                    trainings.difference_spread(run, label, name)))) for label, one in compared)
    return "; ".join(filter(None, [text, trainings.spread(run, name), *told]))


def _training_seconds(run: Run) -> str:
    """Sum the seconds of all artifacts; curves of one artifact share its hash."""
    seconds = {str(entry.get("hash")): entry.get("seconds") for entry in (run.summary.get("training") or {}).values()}
    known = [value for value in seconds.values() if value is not None]
    return f"{sum(known):.0f}" if known else DASH


def _relative_seconds(run: Run, base: Run | None) -> str:
    values = [one.metric("seconds_per_image") if one else None for one in (run, base)]
    seconds, other = (metric.value if metric else None for metric in values)
    return DASH if seconds is None or not other else f"{seconds / other:.2f}"
