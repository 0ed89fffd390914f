"""The numbers of a summary counted again from its rows and verdicts. No image is opened and no weights are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bench import PromptSet
from harness.cells.cell import Cell
from harness.cells.comparable import by_baseline, mapping
from harness.cells.comparisons import TO_BASE
from harness.cells.scored import Scored
from harness.cells.set_scores import set_scores
from harness.cells.stored_cell import stored_cell
from harness.comparisons.sides import Side, load_sides
from harness.errors import HarnessError
from harness.evaluator import Evaluator
from harness.metrics.attack_rates import attack_metrics
from harness.metrics.summary import summarise_cell
from harness.records import Comparison, ImageRow, Metric

NO_FEATURES = "the features of its images are not here"
NO_ROWS = "it needs more than the rows and verdicts that are here"


@dataclass
class Recounted:
    """Numbers counted again, and why some could not be. `in_order`: whether images are in the order of the run.

    Resampled intervals depend on that order.
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    comparisons: dict[str, Mapping[str, Comparison]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    in_order: bool = True


def recount(side: Side, cell: Cell | None, images: list[ImageRow], is_bundle: bool, others: Others) -> Recounted:
    """Count the numbers of a run again. `cell` is None where `others` knows why its configuration cannot be read."""
    found = Recounted()
    found.in_order = is_bundle or (cell is not None and cell.prompts is not None and _has_prompts(cell, cell.prompts))
    found.metrics |= summarise_cell(images, side.scores, None, side.seed).metrics
    attack = mapping(side.run.cell.get("bench")).get("attack")
    if isinstance(attack, str):
        found.metrics |= attack_metrics(attack, images, side.scores, side.seed)
    for label, entry in by_baseline(side.run.summary).items():
        _compare(found, side, images, label, str(entry.get("cell") or ""))
    _count_sets(found, cell, side, others)
    return found


@dataclass
class Others:
    """What reading another cell takes: bench configs by name, trusted classes; and why a cell could not be read."""

    benches: Mapping[str, Any] = field(default_factory=dict)
    trusted: Sequence[str] = ()
    problem: str = NO_ROWS

    def cell(self, folder: Path, like: Cell | None = None) -> Cell | None:
        """Return the cell in a folder, with the evaluators of another; None if it cannot be read."""
        try:
            return stored_cell(folder, self.benches, like.evaluators if like else None, self.trusted,
                               like.shared if like else None)
        except HarnessError as error:
            self.problem = str(error)
            return None


def _has_prompts(cell: Cell, prompts: PromptSet) -> bool:
    return prompts.hash == cell.identity["bench"].get("prompts")


def _compare(found: Recounted, side: Side, images: list[ImageRow], label: str, cell: str) -> None:
    """Compare with a baseline again, where its run is in the same results folder."""
    place = place_of(side, cell)
    if place is None:
        found.reasons[f"against {label}"] = f"the baseline's run {cell[:12] or 'of an earlier release'} is not here"
        return
    try:
        (other,) = load_sides([place])
    except HarnessError as error:
        found.reasons[f"against {label}"] = str(error)
        return
    again = summarise_cell(images, side.scores, other.scores, side.seed, label)
    found.comparisons[label] = again.comparisons


def place_of(side: Side, cell: object) -> Path | None:
    """Return the folder of another cell of the same bench and model; None where it is not there."""
    folder = side.run.folder
    if folder is None or not isinstance(cell, str) or not cell.isalnum():
        return None
    return next(iter(sorted(folder.parents[2].glob(f"*/{folder.parent.name}/{cell}"))), None)


def _count_sets(found: Recounted, cell: Cell | None, side: Side, others: Others) -> None:
    """Count the numbers of whole sets again, from the features that are stored, where their reference is here."""
    told = {str(name): mapping(one) for name, one in mapping(side.run.summary.get("evaluators")).items()}
    sets = [name for name, one in told.items() if one.get("status") == "ok" and _is_of_sets(name, one, side)]
    place = place_of(side, mapping(side.run.summary.get("cell")).get("baseline_cell")) if sets else None
    baseline = others.cell(place, cell) if place and cell else None
    for name in sets:
        bases = {*map(str, told[name]["metrics"]), TO_BASE}
        try:
            if cell is None:
                raise HarnessError(others.problem)
            metrics = set_scores(_scored(cell, name), _scored(baseline, name) if baseline else None, name, False)
        except (HarnessError, StopIteration) as error:
            found.reasons |= {one: f"{name}: {error}" for one in side.run.metrics if one.split("/")[0] in bases}
            continue
        for metric, value in metrics.items():
            full = f"{metric}/{name}" if len(sets) > 1 else metric
            known = side.run.metric(full)
            if value.value is None and known and (known.value is not None or known.n > value.n):
                found.reasons[full] = (value.note or NO_ROWS) if value.n else NO_FEATURES
            else:
                found.metrics[full] = value


def _is_of_sets(name: str, told: Mapping[str, Any], side: Side) -> bool:
    metrics = told.get("metrics")
    return isinstance(metrics, list) and name not in side.scores and len(metrics) > 1


def _scored(cell: Cell, name: str) -> Scored:
    config = next(one for one in cell.evaluators if one["name"] == name)
    evaluators: dict[str, Evaluator] = {name: cell.evaluator(config)}
    return Scored(cell, cell.images(), evaluators, {})
