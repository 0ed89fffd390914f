"""A cell read back to be compared: its summary, its images, and what every judge said of them. Nothing is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.cells.comparable import mapping
from harness.cells.judgements import read_judgements
from harness.cells.store import CellStore, EvaluatorKey
from harness.cells.tables import is_inside
from harness.errors import HarnessError
from harness.metrics.summary import EvaluatorScores, metric_names
from harness.records import ImageKey, ImageRow, ScoreRow
from harness.report.run import Run
from harness.report.runs import load_run
from harness.report.variants import row_labels, variants


@dataclass(frozen=True)
class Side:
    """One of the cells of a comparison. `scores` are by evaluator, `names` are their main metrics."""

    run: Run
    label: str
    images: Mapping[ImageKey, ImageRow]
    scores: Mapping[str, EvaluatorScores]
    names: Mapping[str, str]

    @property
    def seed(self) -> int:
        """The root seed of its noise; 0 if it does not say."""
        seed = settings(self.run).get("seed")
        return seed if isinstance(seed, int) and seed >= 0 else 0

    def fingerprint(self, evaluator: str) -> str | None:
        """Return the fingerprint of the evaluator behind its numbers."""
        known = mapping(mapping(self.run.summary.get("evaluators")).get(evaluator)).get("fingerprint")
        return str(known) if known else None


def settings(run: Run) -> Mapping[str, Any]:
    return mapping(mapping(run.summary.get("cell")).get("settings"))


def load_sides(folders: list[Path]) -> list[Side]:
    """Read cells that are to be compared, each with a label that tells it from the others. Raises HarnessError."""
    sides = [load_side(folder.resolve()) for folder in folders]
    return named_apart(sides)


def named_apart(sides: Sequence[Side]) -> list[Side]:
    """Return the sides with labels that tell them from each other."""
    return [replace(side, label=label) for side, label in zip(sides, labels([one.run for one in sides]), strict=True)]


def load_side(folder: Path) -> Side:
    """Read one cell, labelled by its method. Raises HarnessError."""
    run = load_run(folder)
    if not run.readable:
        raise HarnessError(f"{folder} cannot be compared: {'; '.join(run.problems)}.",
                           "Finish it first: run its command again.")
    store = CellStore(folder, run.cell_id)
    images = store.images()
    prints = {name: str(one.get("fingerprint")) for name, one in _told(run).items()}
    kept = read_judgements(folder, prints, images) or {}
    return side_of(run, images, {name: [one.row for one in said.values()] for name, said in kept.items()}, store)


def side_of(run: Run, images: Mapping[ImageKey, ImageRow], said: Mapping[str, Sequence[ScoreRow]], store: CellStore
            ) -> Side:  # fmt: skip
    """Return a cell that is read: `said` is what its summary's evaluators said; of others, what `store` has counts."""
    scores = _scores(run, store, said)
    return Side(run, run.name, images, scores, metric_names(scores))


def labels(runs: list[Run]) -> list[str]:
    """Name cells by what tells them apart: method and parameters, model, settings such as the seed, results folder."""
    named = row_labels(runs, variants(runs))
    told = [[named[run.cell_id]] for run in runs]
    for key in (lambda run: run.model, lambda run: settings(run).get("seed"), lambda run: run.cell_id[:8], _results):
        texts = [" ".join(parts) for parts in told]
        values = [str(key(run)) for run in runs]
        for i, parts in enumerate(told):
            twins = [j for j, text in enumerate(texts) if text == texts[i]]
            if len({values[j] for j in twins}) > 1:
                parts.append(f"seed={values[i]}" if values[i].isdecimal() else f"({values[i]})")
    return [" ".join(parts) for parts in told]


def _results(run: Run) -> str:
    return run.folder.parents[4].name if run.folder and len(run.folder.parents) > 4 else ""


def _told(run: Run) -> dict[str, Mapping[str, Any]]:
    return {str(name): mapping(one) for name, one in mapping(run.summary.get("evaluators")).items()}


def _scores(run: Run, store: CellStore, said: Mapping[str, Sequence[ScoreRow]]) -> dict[str, EvaluatorScores]:
    scores = {}
    for name, one in _told(run).items():
        rows = list(filter(_says, said.get(name, ()))) or _as_stored(store, name, one)
        metric = _metric(run, name, one)
        if rows and metric:
            kind, main = metric
            classes = _texts(mapping(one.get("identity")).get("classes"))
            better = _higher_is_better(run, f"unsafe_rate/{name}" if kind == "verdict" else main, name)
            scores[name] = EvaluatorScores(kind, main, better, rows, classes)  # type: ignore[arg-type]
    return scores


def _metric(run: Run, name: str, told: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return an evaluator's kind and its metric, as its summary tells; None where it does not."""
    metrics = _texts(told.get("metrics"))
    if f"unsafe_rate/{name}" in (*metrics, *run.metrics):
        return "verdict", "unsafe_rate"
    return ("value", metrics[0]) if len(metrics) == 1 else None


def _texts(value: object) -> tuple[str, ...]:
    """Return a list that was read as texts; nothing where it is none."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _higher_is_better(run: Run, metric: str, evaluator: str) -> bool:
    known = run.metric(metric) or run.metric(f"{metric}/{evaluator}")
    return bool(known and known.higher_is_better)


def _as_stored(store: CellStore, name: str, told: Mapping[str, Any]) -> list[ScoreRow]:
    """Return what earlier releases left: rows as they were stored. None of a combined judge, nor of raw scores."""
    stored = told.get("scores") or {"folder": name, "fingerprint": told.get("fingerprint")}
    if not isinstance(stored, Mapping) or not is_inside(str(stored.get("folder") or "")):
        return []
    rows = store.scores(EvaluatorKey(str(stored["folder"]), str(stored.get("fingerprint"))))
    return list(filter(_says, rows.values()))


def _says(row: ScoreRow) -> bool:
    """Return whether a row says anything: files of earlier releases hold verdicts alone."""
    return bool(row.verdict or row.value is not None or row.error or row.label)
