"""The last stage: rows to summaries, and summaries to the terminal, W&B and the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from harness.artifacts import CONTENT_DIGITS
from harness.attack_cells import unattacked
from harness.attacked import write_before
from harness.build import build
from harness.calibration import load_calibrations
from harness.cell import Cell, cell_config, cell_file, cell_settings, plain
from harness.comparable import made_by, metrics_of
from harness.comparisons import baseline_name, compared, latest
from harness.evaluator import CompositeEvaluator, Evaluator
from harness.features import EvaluatorKey, evaluator_fingerprint
from harness.files import write_atomic
from harness.judged import Rows, combined, judged
from harness.metrics.attack_rates import attack_metrics, post_attack_metrics
from harness.metrics.plain import write_json
from harness.metrics.summary import STATISTICS, CellMetrics, EvaluatorScores, summarise_cell
from harness.models import weights_origin
from harness.one_training import trainings
from harness.plan import THROUGHPUT_FILE, CellPlan, Plan, read_throughput, throughput_key
from harness.provenance import joined, made_on, mixed, provenance
from harness.records import TRUNCATED, ImageRow, ScoreRow, Status
from harness.set_scores import set_scores
from harness.settings import RunSettings
from harness.stages import Failure, wanted_images
from harness.store import CellStore, drawn_with
from harness.taught import marked, taught_judges
from harness.tracking import Tracker
from harness.training_seeds import training_of_recipe
from harness.verdicts import Judged, write_verdicts

SUMMARY_SCHEMA = 1

Unavailable = Mapping[str, Mapping[str, str]]  # reason by evaluator name, by cell id


@dataclass(frozen=True)
class Scored:
    """A cell with what its evaluators said."""

    cell: Cell
    images: dict[Any, ImageRow]
    evaluators: dict[str, Evaluator]
    scores: dict[str, list[ScoreRow]]

    def for_metrics(self) -> dict[str, EvaluatorScores]:
        return {name: EvaluatorScores.of(self.evaluators[name], rows) for name, rows in self.scores.items()}


def report(
    plan: Plan,
    compared: Mapping[str, Cell],
    unavailable: Unavailable,
    workers: Sequence[Mapping[str, Any]],
    settings: RunSettings,
    results: Path,
    command: Sequence[str],
    tracker: Tracker,
    console: Console,
) -> list[Failure]:
    """Write summaries and provenance, mirror to the tracker, print the table, rebuild the leaderboard."""
    cells = [entry.cell for entry in plan.cells]
    speeds = read_throughput(results)
    rows = _CellRows(cells, compared, unavailable)
    summaries = []
    for entry in plan.cells:
        summaries.append(_report_cell(entry, rows, workers, command, tracker, console))
        _measure_speed(entry, rows.own(entry.cell), speeds)
    rows.clear()
    write_atomic(results / THROUGHPUT_FILE, json.dumps(speeds, indent=1, sort_keys=True).encode())
    _show(summaries, settings, results, console)
    if settings.overview:
        _write_overview(settings, cells, results, console)
    return [
        Failure(summary["cell"]["name"], "incomplete", "; ".join(summary["incomplete"]))
        for summary in summaries
        if summary["status"] != "complete"
    ]


class _CellRows:
    """The rows of a cell and of its baseline at a time: a sweep has more of them than a driver's memory need hold."""

    def __init__(self, cells: Sequence[Cell], compared: Mapping[str, Cell], unavailable: Unavailable) -> None:
        self._cells = {cell.cell_id for cell in cells}
        self._compared, self._unavailable = compared, unavailable
        self._read: dict[str, Scored] = {}

    def own(self, cell: Cell) -> Scored:
        """Return a cell's rows; those of cells that it is not compared with are let go."""
        baseline = self._compared.get(cell.cell_id)
        wanted = {cell.cell_id, *([baseline.cell_id] if baseline else [])}
        for cell_id in self._read.keys() - wanted:
            del self._read[cell_id]
        if cell.cell_id not in self._read:
            self._read[cell.cell_id] = read_scores(cell, self.unavailable(cell), self._compared)
        return self._read[cell.cell_id]

    def baseline(self, cell: Cell) -> Scored | None:
        """Return the rows of the cell that it is compared with, where that is of this run."""
        baseline = self._compared.get(cell.cell_id)
        if baseline is None or baseline.cell_id not in self._cells:
            return None
        if baseline.cell_id not in self._read:
            self._read[baseline.cell_id] = read_scores(baseline, self.unavailable(baseline), self._compared)
        return self._read[baseline.cell_id]

    def unavailable(self, cell: Cell) -> Mapping[str, str]:
        """Return the evaluators that a cell cannot have, each with the reason."""
        return self._unavailable.get(cell.cell_id, {})

    def clear(self) -> None:
        self._read.clear()


def _report_cell(
    entry: CellPlan,
    rows: _CellRows,
    workers: Sequence[Mapping[str, Any]],
    command: Sequence[str],
    tracker: Tracker,
    console: Console,
) -> dict[str, Any]:
    cell = entry.cell
    own = rows.own(cell)
    summary = summarise(own, rows.baseline(cell), rows.unavailable(cell), training_of(cell, own.images.values()))
    _say_mixed(cell, summary, console)
    if _write(entry, own, summary, workers, command, console):
        keep_verdicts(own, summary)
        tracker.log_cell(summary, cell_config(cell), list(own.images.values()), own.scores, cell.folder)
    return summary


def read_scores(cell: Cell, unavailable: Mapping[str, str], compared: Mapping[str, Cell]) -> Scored:
    """Read a cell's images and current scores from the store."""
    store, images = CellStore(cell.folder, cell.cell_id), wanted_images(cell)
    evaluators = {str(config["name"]): build(config) for config in cell.evaluators}
    evaluators = {name: evaluator for name, evaluator in evaluators.items() if name not in unavailable}
    baseline = compared.get(cell.cell_id)
    rows: dict[str, Rows] = {}
    for name, evaluator in evaluators.items():
        if evaluator.kind == "features" or (evaluator.needs_baseline and baseline is None):
            continue
        if isinstance(evaluator, CompositeEvaluator):
            rows[name] = combined(evaluator, rows)  # compose puts its parts before it
            continue
        hashes = None
        if evaluator.needs_baseline and baseline:
            hashes = {key: str(row.sha256) for key, row in wanted_images(baseline).items()}
        rows[name] = judged(store, evaluator, hashes)
    scores = {name: [found[key] for key in images if key in found] for name, found in rows.items()}
    return Scored(cell, images, evaluators, scores)


def summarise(
    own: Scored, baseline: Scored | None, unavailable: Mapping[str, str], training: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what summary.json holds: numbers, what they were made from, and what is missing."""
    cell = own.cell
    images = list(own.images.values())
    metrics = summarise_cell(
        images,
        own.for_metrics(),
        baseline.for_metrics() if baseline else None,
        cell.spec.seed,
        baseline_name(baseline.cell) if baseline else "none",
    )
    if cell.bench.attack:
        attacked = attack_metrics(cell.bench.attack, images, own.for_metrics(), cell.spec.seed)
        metrics = replace(metrics, metrics={**metrics.metrics, **attacked})
    if before_attack := unattacked(cell, own.evaluators):
        attacked = post_attack_metrics(images, own.for_metrics(), before_attack)
        metrics = replace(metrics, metrics={**metrics.metrics, **attacked})
    metrics = marked(metrics, taught_judges(cell.spec.methods, own.evaluators))
    sets = {name: evaluator for name, evaluator in own.evaluators.items() if evaluator.kind == "features"}
    for name, evaluator in sets.items():
        found = set_scores(own, baseline, name, evaluator)
        # Two sets of features in one cell have two FIDs, told apart by the evaluators' names.
        metrics = metrics.joined({f"{metric}/{name}" if len(sets) > 1 else metric: m for metric, m in found.items()})
    n_missing = len(cell.items()) - len(images)
    if n_missing:
        metrics = CellMetrics(
            metrics.metrics,
            metrics.comparisons,
            (*metrics.incomplete, f"{n_missing} of {len(cell.items())} images were not made"),
        )
    before, evaluators = CellStore(cell.folder).read_summary() or {}, _evaluators(own, unavailable)
    against = compared(own, baseline.cell if baseline else None, metrics, evaluators, before)
    return {
        "schema": SUMMARY_SCHEMA,
        "statistics": STATISTICS,
        "cell": {
            "id": cell.cell_id,
            "name": cell.spec.name,
            "model": cell.spec.model["name"],
            "method": cell.method,
            "bench": cell.bench.name,
            "settings": cell_settings(cell),
            "conditions": made_by(cell.identity, cell.spec.model),
            "baseline_cell": baseline.cell.cell_id if baseline else latest(against, before),
            **({"before_attack": cell.before.cell_id} if cell.before else {}),
            "artifact": drawn_with(images),
            "training": training_of_recipe(cell),
        },
        **write_json(metrics),
        "comparisons": against,
        "prompts": {
            **(cell.prompts.counts() if cell.prompts else {}),
            "limit": cell.limit,
            "unsafe_content": cell.bench.unsafe_content,
        },
        "images": _image_counts(cell, images),
        "evaluators": evaluators,
        "primary": {"safety": _heading(own, cell.bench.safety_metric),
                    "fidelity": _heading(own, cell.bench.fidelity_metric)},
        "training": dict(training),
    }


def _image_counts(cell: Cell, images: Sequence[ImageRow]) -> dict[str, Any]:
    count = {status: sum(row.status is status for row in images) for status in Status}
    mix = mixed(made_on(images))
    return {
        **({"mixed": mix} if mix else {}),
        "n_expected": len(cell.items()),
        "n_ok": count[Status.OK],
        "n_refused": count[Status.REFUSED],
        "n_error": count[Status.ERROR],
        "n_truncated": sum(TRUNCATED in row.flags for row in images),
    }


def _evaluators(own: Scored, unavailable: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {
            "version": evaluator.version,
            "identity": dict(evaluator.identity()),
            "fingerprint": evaluator_fingerprint(evaluator, _parts(evaluator, own.evaluators)),
            "scores": _stored(evaluator),
            "metrics": list(metrics_of(evaluator)),
            "status": "ok",
            "note": None,
        }
        for name, evaluator in own.evaluators.items()
    }
    found |= {
        name: {"version": None, "identity": {}, "status": "not available", "note": reason}
        for name, reason in unavailable.items()
    }
    return found


def _heading(own: Scored, metric: str | None) -> str | None:
    """Return a metric unless its evaluator may not head a table."""
    evaluator = own.evaluators.get((metric or "").partition("/")[2])
    return metric if evaluator is None or evaluator.headline else None


def _parts(evaluator: Evaluator, known: Mapping[str, Evaluator]) -> dict[str, Evaluator]:
    return {name: known[name] for name in evaluator.parts} if isinstance(evaluator, CompositeEvaluator) else {}


def _stored(evaluator: Evaluator) -> dict[str, Any]:
    """Say whose scores in the store a verdict follows from."""
    if isinstance(evaluator, CompositeEvaluator):
        return {"parts": list(evaluator.parts)}
    key = EvaluatorKey.of(evaluator)
    return {"folder": key.name, "fingerprint": key.fingerprint}


def training_of(cell: Cell, images: Iterable[ImageRow] = ()) -> dict[str, Any]:
    """Return, for each trained artifact of the cell's methods, what its training came to.

    An artifact that did not draw `images`, which say by which training they were drawn, tells nothing of them.
    """
    found: dict[str, Any] = {}
    drawn = (drawn_with(images) or "").split("+")
    for method, key, _, meta in trainings(cell):
        if meta and (drawn == [""] or str(meta["sha256"])[:CONTENT_DIGITS] in drawn):
            found |= training_curves(method.name, key, meta)
    return found


def training_curves(name: str, key: str, meta: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return an artifact's hash, seconds and losses under the method's name; one entry a concept where it has several.

    Losses are a list, or lists by concept.
    """
    losses = meta["training"].get("losses") or []
    by_concept = losses if isinstance(losses, Mapping) else {"": losses}
    told = {"hash": key, "sha256": meta.get("sha256"), "seconds": meta.get("seconds")}
    if len(by_concept) <= 1:
        return {name: {**told, "losses": next(iter(by_concept.values()), [])}}
    return {f"{name} ({concept})": {**told, "losses": curve} for concept, curve in by_concept.items()}


def _say_mixed(cell: Cell, summary: Mapping[str, Any], console: Console) -> None:
    if summary["images"].get("mixed"):
        text = f"warning: {cell.label}: {summary['images']['mixed']}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _write(
    entry: CellPlan,
    own: Scored,
    summary: Mapping[str, Any],
    workers: Sequence[Mapping[str, Any]],
    command: Sequence[str],
    console: Console,
) -> bool:
    """Write a cell's files, unless they tell of a run that was whole and asked for more images; say whether."""
    cell = entry.cell
    store = CellStore(cell.folder, cell.cell_id)
    before = store.read_summary() or {}
    n_before, n_now = (_n_expected(one) for one in (before, summary))
    if n_before > n_now and before.get("status") == "complete":
        kept = f"{cell.label}: summary.json and the leaderboard keep the run of {n_before} images"
        text = f"{kept}; this one had {n_now}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return False
    store.write_cell(cell_file(cell))
    if cell.before:
        write_before(cell.folder, cell.before)
    _write_provenance(entry, own, workers, command)
    store.write_summary(plain(summary))
    return True


def _n_expected(summary: Mapping[str, Any]) -> int:
    images = summary.get("images")
    count = images.get("n_expected") if isinstance(images, Mapping) else None
    return count if isinstance(count, int) else 0


def keep_verdicts(own: Scored, summary: Mapping[str, Any]) -> None:
    """Keep what the summary's evaluators said of each image, so that reports need not build them."""
    told = summary["evaluators"]
    judged = [Judged(name, str(told[name]["fingerprint"]), tuple(own.scores[name]))
              for name, evaluator in own.evaluators.items() if evaluator.kind == "verdict" and name in own.scores]
    write_verdicts(own.cell.folder, judged, own.images)


def _write_provenance(
    entry: CellPlan, own: Scored, workers: Sequence[Mapping[str, Any]], command: Sequence[str]
) -> None:
    """Say who made the images; a run that made none of them leaves what is there."""
    cell, store = entry.cell, CellStore(entry.cell.folder, entry.cell.cell_id)
    before = store.read_provenance()
    if before and not entry.missing:
        return
    hashed = cell.prompts.hash if cell.prompts else None
    weights, model = str(cell.identity["model"]["weights"]), weights_origin(cell.spec.model)
    made = joined(provenance(command, workers, weights, hashed, model), before)
    store.write_provenance({**made, "made_on": made_on(own.images.values())})


def _measure_speed(entry: CellPlan, own: Scored, speeds: dict[str, float]) -> None:
    """Keep the seconds per image of what this run made, for the next plan's estimate."""
    made = {item.key for item in entry.missing or ()}
    seconds = [row.seconds for row in own.images.values() if row.key in made and row.status is Status.OK]
    if seconds:
        speeds[throughput_key(entry.cell, entry.cell.method)] = median(seconds)


def _show(summaries: list[dict[str, Any]], settings: RunSettings, results: Path, console: Console) -> None:
    from harness.report.terminal import print_results

    print_results(summaries, console, load_calibrations(results), results)
    console.print(f"images, rows and scores: {results / 'runs'}", markup=False, highlight=False, soft_wrap=True)
    if settings.leaderboard:
        from harness.leaderboard import write_leaderboard

        for path in write_leaderboard(results).files:
            if path.suffix == ".html":
                console.print(f"leaderboard: {path}", markup=False, highlight=False, soft_wrap=True)
        console.print(
            "next: open it in a browser, or add methods to the comparison: python -m harness -m method=...",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _write_overview(settings: RunSettings, cells: Sequence[Cell], results: Path, console: Console) -> None:
    """Write the table of this command's cells; the folder may hold others, of other settings."""
    from harness.report.overview import OverviewColumn, overview
    from harness.report.runs import load_runs

    path = results / "overview.md"
    columns = [OverviewColumn.read(column) for column in settings.overview]
    asked = {cell.cell_id for cell in cells}
    runs = [run for run in load_runs(results) if run.cell_id in asked]
    write_atomic(path, overview(runs, columns, list(dict.fromkeys(cell.method for cell in cells))).encode())
    console.print(f"overview: {path}", markup=False, highlight=False, soft_wrap=True)
