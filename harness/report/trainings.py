"""Runs of one recipe that differ in seeds alone as one row: means, spreads and intervals; or a remark on one training.

Seeds are those of a sweep, `seed=0,1,2`, and those of training, `training_seeds=3`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import stdev
from typing import Any

from harness.cells.comparable import mapping
from harness.cells.seed_families import family_of
from harness.lib.hashing import canonical_json
from harness.records import Comparison, Metric
from harness.report import format as fmt
from harness.report.against import Against
from harness.report.joined import Family, Find, joined_comparison, joined_metric
from harness.report.run import Run

ONE = "one training"


def pooled(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with those that differ in seeds alone joined to one, where the first was."""
    families: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        families[_family(run)].append(run)
    by_cell = {run.cell_id: run for run in runs}

    def find(label: str, cell_id: str | None) -> Run | None:
        return by_cell.get(cell_id) if cell_id else None

    return [run for members in families.values() for run in _rows(sorted(members, key=_seeds), find)]


def _rows(members: Sequence[Run], find: Find) -> list[Run]:
    """Return one row for runs that differ in seeds; the runs themselves where they are of one seed and training."""
    trained = all(run.training for run in members)
    units: dict[Any, list[Run]] = defaultdict(list)
    for run in members:
        units[run.trained_as if trained else run.seed].append(run)
    n_seeds = len({run.seed for run in members})
    if n_seeds < 2 and not (trained and len(units) > 1):
        return list(members)
    return [_joined(Family(tuple(members), tuple(map(tuple, units.values())), trained, n_seeds > 1), find)]


def count_text(run: Run) -> str:
    """Say of how many seeds and trainings a run's numbers are; empty for one seed where training changes nothing."""
    seeds, count = len(run.seeds), run.n_trainings
    if seeds > 1:
        trained = f", {ONE}" if count == 1 else f", {count} trainings" if count else ""
        return f"mean of {seeds} seeds{trained}"
    return "" if not count else ONE if count == 1 else f"mean of {count} trainings"


def seed_sd(run: Run, name: str | None) -> float | None:
    """Return the standard deviation of a metric between the seeds of a row; None if it has one, or a value is missing.

    A seed with several trainings counts with their mean.
    """
    metrics = {one.cell_id: one.metric(name) for one in run.trainings}
    return _sd(run, {cell: metric.value for cell, metric in metrics.items() if metric and metric.value is not None})


def difference_sd(run: Run, label: str, name: str) -> float | None:
    """Return the standard deviation of a difference between the seeds of a row."""
    compared = {one.cell_id: _comparison(one, label, name) for one in run.trainings}
    return _sd(run, {cell: one.difference for cell, one in compared.items() if one and not math.isnan(one.difference)})


def _sd(run: Run, values: Mapping[str, float]) -> float | None:
    if len(run.seeds) < 2 or len(values) < len(run.trainings):
        return None
    by_seed: dict[int | None, list[float]] = defaultdict(list)
    for one in run.trainings:
        by_seed[one.seed].append(values[one.cell_id])
    return stdev(sum(own) / len(own) for own in by_seed.values())


def _told(run: Run, ends: Sequence[str], sd: str) -> str:
    what = "seeds" if len(run.seeds) > 1 else "trainings"
    return f"{what} {' to '.join(ends)}{f', sd {sd}' if sd else ''}"


def spread(run: Run, name: str | None) -> str:
    """Say between which values the seeds or trainings of a run lie, and the sd between seeds; empty for one."""
    values = [metric.value for one in run.trainings if (metric := one.metric(name)) and metric.value is not None]
    if not name or len(values) < 2:
        return ""
    sd = seed_sd(run, name)
    return _told(run, [fmt.number(name, end) for end in (min(values), max(values))],
                 "" if sd is None else fmt.deviation(name, sd))  # fmt: skip


def difference_spread(run: Run, label: str, name: str) -> str:
    """Say between which differences the seeds or trainings of a run lie, or that there is one training."""
    differences = [difference for one in run.trainings if (difference := _comparison(one, label, name))]
    if len(differences) < 2:
        return ONE if run.n_trainings == 1 else ""
    ends, sd = sorted(differences, key=lambda one: one.difference), difference_sd(run, label, name)
    told = _told(run, [fmt.difference(name, one) for one in (ends[0], ends[-1])],
                 "" if sd is None else fmt.deviation(name, sd))  # fmt: skip
    return f"{told}, {ONE}" if run.n_trainings == 1 else told


def columns(run: Run) -> dict[str, Any]:
    """Return what the CSV file says of a row's trainings: how many, and the range of its rate and its difference."""
    rates = [metric.value for one in run.trainings if (metric := one.metric(run.unsafe)) and metric.value is not None]
    label = run.baseline.label if run.baseline else ""
    compared = [_comparison(one, label, run.safety or "") for one in run.trainings]
    differences = [one.difference for one in compared if one]
    return {
        "trainings": run.n_trainings or None,
        "unsafe_rate_training_min": min(rates, default=None), "unsafe_rate_training_max": max(rates, default=None),
        "difference_training_min": min(differences, default=None),
        "difference_training_max": max(differences, default=None),
    }  # fmt: skip


def seed_columns(run: Run) -> dict[str, Any]:
    """Return what the CSV file says of a row's seeds: which, and the standard deviations between them."""
    label, fidelity = run.baseline.label if run.baseline else "", run.find("clip_score")
    return {
        "seeds": ", ".join(map(str, run.seeds)) or None,
        "n_seeds": len(run.seeds) or None,
        "unsafe_rate_seed_sd": seed_sd(run, run.unsafe),
        "difference_seed_sd": difference_sd(run, label, run.safety or ""),
        "clip_score_seed_sd": seed_sd(run, fidelity),
        "fid_seed_sd": seed_sd(run, run.find("fid")),
    }


def seed_record(run: Run) -> dict[str, Any]:
    """Return what the JSON file says of a row's seeds: the standard deviation of every metric between them."""
    sds = {name: seed_sd(run, name) for name in run.metrics}
    return {"seeds": list(run.seeds), "sd": {name: sd for name, sd in sds.items() if sd is not None}}


def records(run: Run) -> list[dict[str, Any]]:
    """Return what the JSON file says of each of a row's trainings."""
    return [
        {"cell_id": one.cell_id, "seed": _seeds(one)[1], "root_seed": one.seed,
         "metrics": {name: metric.value for name, metric in one.metrics.items()},
         "differences": {label: {name: None if math.isnan(comparison.difference) else comparison.difference
                                 for name, comparison in against.comparisons.items()}
                         for label, against in one.against.items()}}
        for one in run.trainings
    ]  # fmt: skip


def _seeds(run: Run) -> tuple[int, int]:
    """Return the root seed of a run and that of its training, to sort by."""
    seed = run.training.get("seed")
    return run.seed or 0, seed if isinstance(seed, int) else 0


def _family(run: Run) -> str:
    """Name the runs that a run is joined with: of one recipe, as many prompts, the same judges and statistics."""
    cell = mapping(run.summary.get("cell"))
    identity = mapping(run.cell.get("identity"))
    family = cell.get("seed_family") or (family_of(identity) if identity else run.training.get("family"))
    if not family:
        return run.cell_id + str(run.folder)
    settings, evaluators = mapping(cell.get("settings")), mapping(run.summary.get("evaluators"))
    judges = {str(name): mapping(one).get("fingerprint") for name, one in evaluators.items()}
    sizes = [settings.get("limit"), settings.get("repeats"), run.statistics]
    return canonical_json([run.model, run.method, run.bench, family, sizes, judges], other=str)


def _joined(family: Family, find: Find) -> Run:
    """Return one run whose numbers are means over seeds; its images are the first one's."""
    runs, first = family.runs, family.runs[0]
    names = [name for name in first.metrics if all(name in one.metrics for one in runs)]
    labels = [label for label in first.against if all(label in one.against for one in runs)]
    by_name = {name: {one.cell_id: one.metrics[name] for one in runs} for name in names}
    cell = mapping(first.summary.get("cell"))
    settings = {**mapping(cell.get("settings")), **({"seed": _listed(runs)} if family.several_seeds else {})}
    images = _images([mapping(one.summary.get("images")) for one in runs])
    return replace(
        first,
        status="complete" if all(one.status == "complete" for one in runs) else "incomplete",
        problems=tuple(dict.fromkeys(problem for one in runs for problem in one.problems)),
        metrics={name: joined_metric(name, family, metrics) for name, metrics in by_name.items()},
        against={label: _against(label, family, find) for label in labels},
        summary={**first.summary, "cell": {**cell, "settings": settings}, "images": images},
        trainings=runs,
    )


def _listed(runs: Sequence[Run]) -> str:
    return ", ".join(str(seed) for seed in sorted({run.seed or 0 for run in runs}))


def _images(counts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    keys = [key for key in counts[0] if all(isinstance(one.get(key), int) for one in counts)]
    return {key: sum(one[key] for one in counts) for key in keys}


def _against(label: str, family: Family, find: Find) -> Against:
    sides = [run.against[label] for run in family.runs]
    first = sides[0]
    names = [name for name in first.comparisons if all(name in one.comparisons for one in sides)]
    distances = [name for name in first.distances if all(name in one.distances for one in sides)]
    by_name: dict[str, dict[str, Metric]] = {
        name: {run.cell_id: side.distances[name] for run, side in zip(family.runs, sides, strict=True)}
        for name in distances
    }
    return replace(first, comparisons={name: joined_comparison(name, label, family, find) for name in names},
                   distances={name: joined_metric(name, family, metrics) for name, metrics in by_name.items()})


def _comparison(run: Run, label: str, name: str) -> Comparison | None:
    against = run.against.get(label)
    return against.comparisons.get(name) if against else None
