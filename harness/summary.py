"""From rows to summary.json: numbers, their provenance, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.cells.attack_cells import unattacked
from harness.cells.cell import Cell, cell_settings
from harness.cells.comparable import made_by, metrics_of
from harness.cells.comparisons import baseline_name, compared, latest
from harness.cells.evaluations import Rows, combined, judged
from harness.cells.followed import told_in_summary
from harness.cells.judgements import Judged, write_judgements
from harness.cells.one_training import trainings
from harness.cells.provenance import made_on, mixed
from harness.cells.scored import Scored
from harness.cells.set_scores import set_scores
from harness.cells.store import drawn_with
from harness.cells.training_judges import marked, taught_judges
from harness.cells.training_seeds import seed_family, training_of_recipe
from harness.evaluator import CompositeEvaluator, Evaluator
from harness.evaluators.identity import EvaluatorKey, evaluator_fingerprint
from harness.metrics.attack_rates import attack_metrics, post_attack_metrics
from harness.metrics.plain import write_json
from harness.metrics.summary import STATISTICS, CellMetrics, summarise_cell
from harness.records import TRUNCATED, ImageRow, Status
from harness.sampling.artifact_content import CONTENT_DIGITS

SUMMARY_SCHEMA = 1


def read_scores(cell: Cell, unavailable: Mapping[str, str], compared: Mapping[str, Cell]) -> Scored:
    """Read a cell's images and current scores from the store."""
    images, available = cell.images(), [one for one in cell.evaluators if one["name"] not in unavailable]
    evaluators = {str(config["name"]): cell.evaluator(config) for config in available}
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
            hashes = {key: str(row.sha256) for key, row in baseline.images().items()}
        rows[name] = judged(cell.store, evaluator, hashes, images)
    scores = {name: [by_key[key] for key in images if key in by_key] for name, by_key in rows.items()}
    return Scored(cell, images, evaluators, scores)


def summarise(
    scored: Scored, baseline: Scored | None, unavailable: Mapping[str, str], training: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what summary.json holds: numbers, what they were made from, and what is missing."""
    cell = scored.cell
    images = list(scored.images.values())
    metrics = summarise_cell(
        images,
        scored.for_metrics(),
        baseline.for_metrics() if baseline else None,
        cell.spec.seed,
        baseline_name(baseline.cell) if baseline else "none",
    )
    if cell.bench.attack:
        attacked = attack_metrics(cell.bench.attack, images, scored.for_metrics(), cell.spec.seed)
        metrics = replace(metrics, metrics={**metrics.metrics, **attacked})
    if before_attack := unattacked(cell, scored.evaluators):
        attacked = post_attack_metrics(images, scored.for_metrics(), before_attack)
        metrics = replace(metrics, metrics={**metrics.metrics, **attacked})
    metrics = marked(metrics, taught_judges(cell.spec.methods, scored.evaluators, cell.shared.method))
    sets = [name for name, evaluator in scored.evaluators.items() if evaluator.kind == "features"]
    for name in sets:
        of_set = set_scores(scored, baseline, name)
        # Two sets of features in one cell have two FIDs, told apart by the evaluators' names.
        metrics = metrics.joined({f"{metric}/{name}" if len(sets) > 1 else metric: m for metric, m in of_set.items()})
    n_expected = cell.n_images or 0
    n_missing = n_expected - len(images)
    if n_missing:
        metrics = CellMetrics(
            metrics.metrics,
            metrics.comparisons,
            (*metrics.incomplete, f"{n_missing} of {n_expected} images were not generated"),
        )
    before, evaluators = cell.store.read_summary() or {}, _evaluators(scored, unavailable)
    against = compared(scored, baseline.cell if baseline else None, metrics, evaluators, before)
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
            "seed_family": seed_family(cell),
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
        "primary": {"safety": _heading(scored, cell.bench.safety_metric),
                    "fidelity": _heading(scored, cell.bench.fidelity_metric)},
        "training": dict(training),
        **_protocols(cell, before, evaluators),
    }


def _protocols(cell: Cell, before: Mapping[str, Any], evaluators: Mapping[str, Any]) -> dict[str, Any]:
    told = told_in_summary(cell.protocols, before, cell_settings(cell), evaluators)
    return {"protocols": told} if told else {}


def _image_counts(cell: Cell, images: Sequence[ImageRow]) -> dict[str, Any]:
    count = {status: sum(row.status is status for row in images) for status in Status}
    mix = mixed(made_on(images))
    return {
        **({"mixed": mix} if mix else {}),
        "n_expected": cell.n_images or 0,
        "n_ok": count[Status.OK],
        "n_refused": count[Status.REFUSED],
        "n_error": count[Status.ERROR],
        "n_truncated": sum(TRUNCATED in row.flags for row in images),
    }


def _evaluators(scored: Scored, unavailable: Mapping[str, str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        name: {
            "version": evaluator.version,
            "identity": dict(evaluator.identity()),
            "fingerprint": evaluator_fingerprint(evaluator, _parts(evaluator, scored.evaluators)),
            "scores": _stored(evaluator),
            "metrics": list(metrics_of(evaluator)),
            "status": "ok",
            "note": None,
        }
        for name, evaluator in scored.evaluators.items()
    }
    described |= {
        name: {"version": None, "identity": {}, "status": "not available", "note": reason}
        for name, reason in unavailable.items()
    }
    return described


def _heading(scored: Scored, metric: str | None) -> str | None:
    """Return a metric, unless its evaluator may not be a headline number."""
    evaluator = scored.evaluators.get((metric or "").partition("/")[2])
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

    An artifact that did not draw `images`, which say by which training they were generated, tells nothing of them.
    """
    training: dict[str, Any] = {}
    drawn = (drawn_with(images) or "").split("+")
    for method, key, _, meta in trainings(cell):
        if meta and (drawn == [""] or str(meta["sha256"])[:CONTENT_DIGITS] in drawn):
            training |= training_curves(method.name, key, meta)
    return training


def training_curves(name: str, key: str, meta: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return an artifact's hash, seconds and losses under the method's name; one entry per concept if it has several.

    Losses are a list, or lists by concept.
    """
    losses = meta["training"].get("losses") or []
    by_concept = losses if isinstance(losses, Mapping) else {"": losses}
    told = {"hash": key, "sha256": meta.get("sha256"), "seconds": meta.get("seconds")}
    if len(by_concept) <= 1:
        return {name: {**told, "losses": next(iter(by_concept.values()), [])}}
    return {f"{name} ({concept})": {**told, "losses": curve} for concept, curve in by_concept.items()}


def keep_judgements(scored: Scored, summary: Mapping[str, Any]) -> None:
    """Keep what the summary's evaluators said of each image, so that reports need not build them."""
    told = summary["evaluators"]
    judged = [Judged(evaluator, str(told[name]["fingerprint"]), tuple(scored.scores[name]))
              for name, evaluator in scored.evaluators.items() if name in scored.scores]
    write_judgements(scored.cell.folder, judged, scored.images)
