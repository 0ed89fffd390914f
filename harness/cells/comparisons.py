"""A cell's comparisons as summary.json keeps them: under the baseline of each, side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from harness.cells.cell import Cell
from harness.cells.comparable import Entry, by_baseline, mapping, named
from harness.cells.evaluations import scores_of
from harness.cells.scored import Scored
from harness.metrics.summary import CellMetrics, summarise_cell

TO_BASE = "fid_to_base"
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def baseline_name(cell: Cell) -> str:
    return named(cell.method, cell.method_overrides)


def compared(
    scored: Scored, baseline: Cell | None, metrics: CellMetrics, evaluators: Mapping[str, Any],
    before: Mapping[str, Any],
) -> dict[str, Entry]:
    """Return the comparisons with the baseline of this run, then those with baselines of earlier runs.

    `evaluators` is the summary's entry of the same name, `before` the summary that is there.
    """
    entries: dict[str, Entry] = {}
    if baseline is not None and metrics.comparisons:
        entries[baseline_name(baseline)] = _entry(scored, baseline, metrics)
    for label, former in by_baseline(before).items():
        cell = former.get("cell")
        if baseline is not None and (cell == baseline.cell_id or (cell is None and label in entries)):
            continue
        kept = _again(scored, label, former) or _still_true(scored, former, evaluators, before)
        if kept["metrics"]:
            entries[label if label not in entries else f"{label} [{str(cell)[:6]}]"] = kept
    return entries


def _entry(scored: Scored, baseline: Cell, metrics: CellMetrics) -> Entry:
    apart = {name for name, one in scored.evaluators.items() if one.needs_baseline}
    bases = {scored.evaluators[name].metric for name in apart} | {TO_BASE}
    distances = {name: asdict(m) for name, m in metrics.metrics.items() if name.split("/")[0] in bases}
    return {
        "cell": baseline.cell_id,
        "method": baseline.method,
        "overrides": dict(baseline.method_overrides),
        "metrics": {name: asdict(comparison) for name, comparison in metrics.comparisons.items()},
        "distances": distances,
    }


def _again(scored: Scored, label: str, former: Entry) -> Entry | None:
    """Compare again with an earlier run's baseline, on current images and evaluators, if its cell still exists."""
    cell, folder = str(former.get("cell") or ""), scored.cell.folder
    known = bool(_NAME.fullmatch(cell)) and len(folder.parents) > 3 and folder.parents[2].is_dir()
    methods = sorted(folder.parents[2].iterdir()) if known else []
    places = [place for method in methods if (place := method / folder.parent.name / cell).is_dir()]
    if not places:
        return None
    others = scores_of(scored.cell.shared.stores.of(places[0]), scored.evaluators)
    images = list(scored.images.values())
    again = summarise_cell(images, scored.for_metrics(), others, scored.cell.spec.seed, label)
    return {**former, "metrics": {name: asdict(comparison) for name, comparison in again.comparisons.items()}}


def _still_true(scored: Scored, former: Entry, evaluators: Mapping[str, Any], before: Mapping[str, Any]) -> Entry:
    """Keep the comparisons that nothing has changed of: same images, same judge."""
    n_before, n_now = mapping(before.get("images")).get("n_expected"), scored.cell.n_images
    known = mapping(before.get("evaluators"))
    changed = {name for name, now in evaluators.items()
               if name in known and mapping(known[name]).get("fingerprint") != now.get("fingerprint")}
    bases = {scored.evaluators[name].metric for name in changed if name in scored.evaluators}
    metrics = {name: record for name, record in former["metrics"].items()
               if n_before == n_now and name.split("/")[0] not in bases and not changed & set(name.split("/"))}
    return {**former, "metrics": metrics}


def latest(entries: Mapping[str, Entry], before: Mapping[str, Any]) -> str | None:
    """Return the baseline's cell that a former run compared with, where this run compares with none."""
    cell = mapping(before.get("cell")).get("baseline_cell")
    return cell if any(entry.get("cell") == cell for entry in entries.values()) else None
