"""Weights & Biases as a mirror of the results folder: one run per cell, from the driver only.

Nothing here may fail a run: an error is one warning, and the mirror falls behind.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cells.comparable import by_baseline, status_text
from harness.cells.tracker import NoTracker, Tracker, TrackerSettings
from harness.lib.image_files import open_image
from harness.records import ImageKey, ImageRow, ScoreRow, Status, Verdict

log = logging.getLogger(__name__)

BLUR_RADIUS = 0.12  # of the shorter side: shapes are gone, colours stay
PROGRESS_SECONDS = 10.0

Config = Mapping[str, Any]
Scores = Mapping[str, Sequence[ScoreRow]]


def make_tracker(config: Config, group: str, root: Path) -> Tracker:
    """Return the tracker asked for. `group` joins the runs of a sweep; offline runs go to `root`/wandb."""
    settings = TrackerSettings.from_config(config)
    return NoTracker() if settings.mode == "disabled" else WandbTracker(settings, group, root)


class WandbTracker:
    """One W&B run per cell, with the cell's id, so that a repeated command updates it."""

    def __init__(self, settings: TrackerSettings, group: str, root: Path) -> None:
        self.settings = settings
        self.group = group
        self.root = root
        self._failed = False
        self._last_progress: dict[str, float] = {}
        self._open: dict[str, Any] = {}  # runs of cells that are being made

    def log_progress(self, cell: Config, done: int, total: int, images_per_second: float) -> None:
        """Log how far a cell (as in its cell.yaml) is, at most once in ten seconds; its run stays open meanwhile.

        Only where somebody can watch: an offline run gets its numbers in the end.
        """
        now, cell_id = time.monotonic(), str(cell["cell_id"])
        early = now - self._last_progress.get(cell_id, -PROGRESS_SECONDS) < PROGRESS_SECONDS
        if self.settings.mode != "online" or (early and done < total):
            return
        self._last_progress[cell_id] = now
        values = {"progress/done": done, "progress/total": total, "progress/images_per_second": images_per_second}

        def tell() -> None:
            if cell_id not in self._open:
                self._open[cell_id] = self._begin(cell_id, str(cell["name"]), cell)
            self._open[cell_id].log(values)
            if done >= total:
                self._open.pop(cell_id).finish()

        self._safely(tell)

    def log_cell(
        self, summary: Config, config: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None:
        """Log a finished cell: its numbers, a row per image, a small sample of images, its training curves."""

        def fill(run: Any) -> None:
            run.summary.update(summary_values(summary))
            run.log({"images": self._table(images, scores)})
            unsafe_bench = bool(summary["prompts"].get("unsafe_content", True))
            sample = self._sample(images, folder, unsafe_bench, not_safe(scores))
            if sample:
                run.log({"sample": sample})
            for method, training in summary.get("training", {}).items():
                for step, loss in enumerate(training.get("losses") or ()):
                    run.log({f"training/{method}/loss": loss, f"training/{method}/step": step})

        cell = summary["cell"]

        def tell() -> None:
            run = self._open.pop(cell["id"], None) or self._begin(cell["id"], cell["name"], config)
            try:
                fill(run)
            finally:
                run.finish()

        self._safely(tell)

    def close(self) -> None:
        """End the runs that are still open; wait until W&B's service has written everything."""
        for run in self._open.values():
            self._safely(run.finish)
        self._open.clear()
        if "wandb" in sys.modules:
            self._safely(lambda: sys.modules["wandb"].teardown())

    def _begin(self, cell_id: str, name: str, config: Config) -> Any:
        import wandb

        (self.root / "wandb").mkdir(parents=True, exist_ok=True)
        return wandb.init(
            id=cell_id,
            resume="allow",
            group=self.group,
            job_type="bench",
            project=self.settings.project,
            entity=self.settings.entity,
            mode=self.settings.mode,
            dir=str(self.root),
            name=name,
            config=dict(config),
            reinit="create_new",  # cells that are made side by side have a run each
            settings=wandb.Settings(silent=True, console="off", disable_git=True, init_timeout=30),
        )

    def _safely(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # a mirror: no failure of W&B may cost a result
            self._failed = True
            log.warning("W&B is disabled for this run: %s: %s", type(error).__name__, str(error).splitlines()[:1])

    def _table(self, images: Sequence[ImageRow], scores: Scores) -> Any:
        import wandb

        by_key = {name: {row.key: row for row in rows} for name, rows in scores.items()}
        columns: list[str | int] = ["prompt_id", "repeat", "category", "seed", "status", *by_key]
        rows = [
            [
                image.prompt_id,
                image.repeat,
                ";".join(image.category),
                str(image.seed),
                image.status.value,
                *(_told(known.get(image.key)) for known in by_key.values()),
            ]
            for image in images
        ]
        return wandb.Table(columns=columns, data=rows)

    def _sample(
        self, images: Sequence[ImageRow], folder: Path, unsafe_bench: bool, doubtful: set[ImageKey]
    ) -> list[Any]:
        import wandb

        shown = [row for row in images if row.status is Status.OK and row.file][: self.settings.images]
        sample = []
        for row in shown:
            try:
                with open_image(folder / str(row.file)) as picture:
                    kept = picture.convert("RGB")
            except (OSError, ValueError, SyntaxError) as error:
                log.warning("%s is not shown: %s", row.file, error)
                continue
            if (unsafe_bench or row.key in doubtful) and not self.settings.upload_images:
                kept = blurred(kept)
            sample.append(wandb.Image(kept, caption=f"{row.prompt_id} {row.repeat}"))
        return sample


def not_safe(scores: Scores) -> set[ImageKey]:
    """Return the images that some evaluator does not call safe, whatever their bench."""
    return {row.key for rows in scores.values() for row in rows if row.verdict not in (None, Verdict.SAFE)}


def blurred(picture: Any) -> Any:
    """Return a PIL image blurred beyond recognition."""
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(max(2.0, BLUR_RADIUS * min(picture.size))))


def summary_values(summary: Config) -> dict[str, Any]:
    """Return the numbers of a summary under flat names, a difference under its baseline's.

    An unknown number is left out; its reason is not.
    """
    values: dict[str, Any] = {"status": status_text(summary)}
    values |= {f"images/{k}": v for k, v in summary["images"].items()}
    for name, metric in summary["metrics"].items():
        for part in ("value", "ci_low", "ci_high", "ci_method", "n", "n_unknown", "note"):
            if metric.get(part) is not None:
                values[name if part == "value" else f"{name}.{part}"] = metric[part]
    for label, entry in by_baseline(summary).items():
        for name, comparison in entry["metrics"].items():
            for part in ("difference", "p_value", "before"):
                if comparison.get(part) is not None:
                    values[f"against {label}/{name}.{part}"] = comparison[part]
    return values


def _told(row: ScoreRow | None) -> str:
    if row is None:
        return ""
    if row.error is not None:
        return f"unknown: {row.error}"
    return row.verdict.value if row.verdict else ("" if row.value is None else f"{row.value:.4f}")
