"""`harness.results`: a results folder as data frames, one row a metric or one row an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cells.comparable import mapping
from harness.cells.judgements import Judgement, read_judgements
from harness.cells.store import CellStore
from harness.cells.tables import is_inside
from harness.errors import MissingResourceError, unknown_name
from harness.records import Box, ImageKey, ImageRow, ScoreRow, Verdict
from harness.report.against import Adjusted
from harness.report.grid import read_verdicts
from harness.report.run import Run
from harness.report.runs import load_run, load_runs

if TYPE_CHECKING:
    from pandas import DataFrame

OF_CELL = ("model", "method", "bench", "cell_id", "seed", "n_seeds", "trainings", "status")
OF_METRIC = ("metric", "value", "ci_low", "ci_high", "ci_method", "n", "n_unknown", "worst_low", "worst_high",
             "higher_is_better", "note")  # fmt: skip
OF_DIFFERENCE = ("baseline", "difference", "difference_ci_low", "difference_ci_high", "p_value", "p_adjusted",
                 "n_pairs", "test")  # fmt: skip
METRIC_COLUMNS = (*OF_CELL, *OF_METRIC, *OF_DIFFERENCE, "created", "folder")
IMAGE_COLUMNS = ("model", "method", "bench", "cell_id", "prompt_id", "repeat", "prompt", "category", "seed",
                 "guidance_scale", "status", "error", "flags", "seconds", "batch_size", "sha256", "path")  # fmt: skip
JUDGE_COLUMNS = ("verdict", "score", "label", "error", "boxes")  # each with the judge's name: verdict/nudenet


def results(folder: str | Path = "results") -> Results:
    """Read the results folder of `python -m harness`.

        harness.results("results").to_pandas()     one row a metric
        harness.results("results").images()        one row an image

    Nothing of a results folder is executed, and no image is opened. Raises MissingResourceError where there is no run.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise MissingResourceError(f"results folder '{place}' does not exist.", "Run `python -m harness` first.")
    return Results(place)


@dataclass(frozen=True)
class Results:
    """A results folder."""

    folder: Path

    def to_pandas(self) -> DataFrame:
        """Return one row for each metric of each run: its value, its 95 % interval, and its difference to the baseline.

        Columns: `model`, `method`, `bench`, `cell_id`, `seed` (missing where a row is of several), `n_seeds` and
        `trainings` (how many the numbers are a mean of), `status`; `metric`, `value`, `ci_low`, `ci_high`, `ci_method`,
        `n`, `n_unknown`, `worst_low`, `worst_high` (with every unknown counted as safe, as unsafe), `higher_is_better`,
        `note`; `baseline`, `difference` (method - baseline, paired), `difference_ci_low`, `difference_ci_high`,
        `p_value`, `p_adjusted` (Holm, over the methods compared with this baseline), `n_pairs`, `test`; `created`,
        `folder`. Rates are from 0 to 1. What was not measured is missing, never 0. A run without a summary has one row,
        which says so in `status`.
        """
        import pandas as pd

        rows = [row for run in load_runs(self.folder) for row in _metric_rows(run)]
        return pd.DataFrame.from_records(rows, columns=list(METRIC_COLUMNS))

    def images(
        self, *, model: str | None = None, method: str | None = None, bench: str | None = None,
        cell_id: str | None = None,
    ) -> DataFrame:
        """Return one row for each image of each run, or of the runs that are named.

        Columns: `model`, `method`, `bench`, `cell_id`, `prompt_id`, `repeat`, `prompt`, `category` (a list), `seed`,
        `guidance_scale`, `status` (ok, refused, error), `error`, `flags` (a list), `seconds`, `batch_size`, `sha256`,
        `path` (of the PNG file; missing where no image was stored); then for each evaluator, such as nudenet:
        `verdict/nudenet` (safe, unsafe, unknown), `score/nudenet` (the more, the more surely unsafe; or the value),
        `label/nudenet`, `error/nudenet` and, of a detector, `boxes/nudenet` (a list of label, score, left, top, width,
        height in parts of the image). A judge that did not judge an image has no verdict there.
        """
        import pandas as pd

        asked = {"model": model, "method": method, "bench": bench, "cell_id": cell_id}
        chosen = _chosen(self._cells(), asked)
        read = (pd.DataFrame.from_records(list(_image_rows(load_run(path)))) for path in chosen)
        frames = [frame for frame in read if len(frame)]
        whole = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        judged = [name for name in whole.columns if name not in IMAGE_COLUMNS]
        return whole.reindex(columns=[*IMAGE_COLUMNS, *judged])

    def _cells(self) -> Sequence[Path]:
        cells = [path for path in sorted(self.folder.glob("runs/*/*/*/*")) if path.is_dir()]
        if not cells:
            raise MissingResourceError(f"no runs in '{self.folder}'.", "Run `python -m harness` first.")
        return cells

    def __repr__(self) -> str:
        return f"<results in {self.folder}>"


def _chosen(cells: Sequence[Path], asked: Mapping[str, str | None]) -> list[Path]:
    """Return the run folders that are asked for. Raises UnknownNameError for a name that none has."""
    for place, (key, name) in enumerate(asked.items(), start=-len(asked)):
        known = {path.parts[place] for path in cells}
        if name is not None and name not in known:
            raise unknown_name(f"{key} of these results", name, known)
        cells = [path for path in cells if name in (None, path.parts[place])]
    return list(cells)


def _metric_rows(run: Run) -> Iterator[dict[str, Any]]:
    cell = {"model": run.model, "method": run.method, "bench": run.bench, "cell_id": run.cell_id,
            "seed": run.seeds[0] if len(run.seeds) == 1 else None, "n_seeds": len(run.seeds) or None,
            "trainings": run.n_trainings or None, "status": run.status_text}  # fmt: skip
    end = {"created": run.created or None, "folder": str(run.folder) if run.folder else None}
    if not run.metrics:
        yield {**cell, "note": "; ".join(run.problems) or None, **end}
    for name, metric in run.metrics.items():
        measured = {key: getattr(metric, key) for key in OF_METRIC if key != "metric"}
        yield {**cell, "metric": name, **measured, **_difference(run, name), **end}


def _difference(run: Run, name: str) -> dict[str, Any]:
    one = run.comparisons.get(name)
    if one is None:
        return {}
    return {
        "baseline": one.baseline or (run.baseline.label if run.baseline else None), "difference": one.difference,
        "difference_ci_low": one.ci_low, "difference_ci_high": one.ci_high, "p_value": one.p_value,
        "p_adjusted": one.p_adjusted if isinstance(one, Adjusted) else None, "n_pairs": one.n_pairs, "test": one.test,
    }  # fmt: skip


def _image_rows(run: Run) -> Iterator[dict[str, Any]]:
    if run.folder is None:
        return
    store = CellStore(run.folder, run.cell_id)
    images = store.images()
    said = _said(run, store, images)
    for key, row in sorted(images.items()):
        yield {**_image(run, run.folder, row), **{name: value for judge, of_judge in said.items()
                                                  for name, value in _judged(judge, of_judge.get(key)).items()}}


def _image(run: Run, folder: Path, row: ImageRow) -> dict[str, Any]:
    path = str(folder / row.file) if row.file and is_inside(row.file) else None
    return {
        "model": run.model, "method": run.method, "bench": run.bench, "cell_id": run.cell_id,
        "prompt_id": row.prompt_id, "repeat": row.repeat, "prompt": row.prompt, "category": list(row.category),
        "seed": row.seed, "guidance_scale": row.guidance_scale, "status": row.status.value, "error": row.error,
        "flags": list(row.flags), "seconds": row.seconds, "batch_size": row.batch_size, "sha256": row.sha256,
        "path": path,
    }  # fmt: skip


Said = Mapping[str, Mapping[ImageKey, Judgement]]


def _said(run: Run, store: CellStore, images: Mapping[ImageKey, ImageRow]) -> Said:
    """Return what each evaluator of the summary said; of older runs their verdicts alone."""
    told = mapping(run.summary.get("evaluators"))
    fingerprints = {str(name): str(mapping(data).get("fingerprint")) for name, data in told.items()}
    kept = read_judgements(store.folder, fingerprints, images)
    if kept is not None:
        return kept
    verdicts: dict[str, dict[ImageKey, Judgement]] = {}
    for key, by_judge in read_verdicts(run, store).items():
        for name, verdict in by_judge.items():
            row = ScoreRow(key.prompt_id, key.repeat, Verdict(verdict))
            verdicts.setdefault(name, {})[key] = Judgement(row, None)
    return verdicts


def _judged(judge: str, judgement: Judgement | None) -> dict[str, Any]:
    """Return the columns of one judge for one image; of one that said nothing, its verdict is missing."""
    if judgement is None:
        return {f"verdict/{judge}": None}
    row = judgement.row
    said = {"verdict": row.verdict.value if row.verdict else None, "score": judgement.score, "label": row.label,
            "error": row.error}  # fmt: skip
    boxes = {"boxes": [_box(box) for box in row.boxes]} if row.boxes else {}
    return {f"{name}/{judge}": value for name, value in (said | boxes).items()}


def _box(box: Box) -> dict[str, Any]:
    return {"label": box.label, "score": box.score, "left": box.left, "top": box.top, "width": box.width,
            "height": box.height}  # fmt: skip
