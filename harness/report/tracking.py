"""Weights & Biases as a mirror of the results folder: one run per cell, from the driver only.

Nothing here may fail a run: an error is one warning, and the mirror falls behind.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.cells.comparable import mapping
from harness.cells.tracker import NoTracker, Tracker, TrackerSettings
from harness.errors import printable
from harness.lib.hashing import canonical_hash
from harness.lib.shell import PYTHON, python
from harness.records import ImageRow, ScoreRow
from harness.report import tracking_artifacts as artifacts
from harness.report.tracking_address import address_of, was_uploaded
from harness.report.tracking_fields import config_fields, field, summary_fields
from harness.report.tracking_images import Blurring, images_table, said_of

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0
LOGGED = "logged_"  # before the name of a field that says, by a hash, what of a run is on the server

Config = Mapping[str, Any]
Scores = Mapping[str, Sequence[ScoreRow]]
Say = Callable[[str], None]


def make_tracker(config: Config, group: str, root: Path, say: Say = log.info) -> Tracker:
    """Return the tracker asked for. `group` joins the runs of a command; offline runs go to `root`/wandb.

    `say` tells the user where the runs are.
    """
    settings = TrackerSettings.from_config(config)
    return NoTracker() if settings.mode == "disabled" else WandbTracker(settings, group, root, say)


class WandbTracker:
    """One W&B run per cell, per training, and one for the board, each with an id that repeating the command keeps."""

    def __init__(self, settings: TrackerSettings, group: str, root: Path, say: Say = log.info) -> None:
        self.settings = settings
        self.group = settings.group or group
        self.root = root
        self.say = say
        self.problem: str | None = None  # why nothing is sent any more
        self._last_progress: dict[str, float] = {}
        self._open: dict[str, Any] = {}  # runs of cells that are being made
        self._trained: set[str] = set()  # trainings that this command has told of
        self.account = ("", "")  # entity and project, once an online run has begun
        self._places: list[str] = []  # of the runs: a URL each, or a folder

    def log_progress(self, cell: Config, done: int, total: int, images_per_second: float) -> None:
        """Log how far a cell (as in its cell.yaml) is, at most once in ten seconds; its run stays open meanwhile.

        Only where somebody can watch: an offline run gets its numbers in the end.
        """
        now, cell_id = time.monotonic(), str(cell["cell_id"])
        early = now - self._last_progress.get(cell_id, -PROGRESS_SECONDS) < PROGRESS_SECONDS
        if self.settings.mode != "online" or (early and done < total):
            return
        self._last_progress[cell_id] = now
        values = {"progress__done": done, "progress__total": total, "progress__images_per_second": images_per_second}

        def tell() -> None:
            if cell_id not in self._open:
                self._open[cell_id] = self._begin(cell_id, str(cell["name"]), "bench", config_fields(cell, {}))
            self._open[cell_id].log(values)
            if done >= total:
                self._end(self._open.pop(cell_id))

        self._safely(tell)

    def log_cell(
        self, summary: Config, config: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None:
        """Log a finished cell: its numbers, a row per image with some pictures, its files and what trained it."""
        cell = summary["cell"]

        def tell() -> None:
            trained = self._log_trainings(summary, config)
            run = self._open.pop(cell["id"], None) or self._begin(cell["id"], cell["name"], "bench", {})
            with self._ending(run):
                run.config.update(config_fields(config, summary), allow_val_change=True)
                run.summary.update(summary_fields(summary))
                self._log_images(run, summary, images, scores, folder)
                for artifact in trained:
                    artifacts.use(run, artifact)
                run.log_artifact(artifacts.of_cell(folder))

        self._safely(tell)

    def log_board(self, results: Path) -> None:
        """Log the leaderboard of a results folder: its rows as a table, its files, and the cells that it is of."""
        from harness.report.tracking_board import board_table, cells_of

        def tell() -> None:
            address = address_of(self.root)
            run = self._begin("board", f"leaderboard of {results.resolve().name}", "board", {})
            with self._ending(run):
                table, digest = board_table(results)
                self._once(run, "leaderboard", digest, lambda: table)
                for folder in cells_of(results):
                    artifacts.use(run, artifacts.of_cell(folder))
                run.log_artifact(artifacts.of_board(address, results))

        self._safely(tell)

    def close(self) -> None:
        """End the runs that are still open, wait until W&B's service has written everything, say where it is."""
        for run in self._open.values():
            self._safely(partial(self._end, run))
        self._open.clear()
        if "wandb" in sys.modules:
            self._safely(lambda: sys.modules["wandb"].teardown())
        for line in where(self._places, self.settings.mode == "online"):
            self.say(line)

    def _log_trainings(self, summary: Config, config: Config) -> list[Any]:
        """Give each training of a cell a run of its own, once per command; return the artifacts that came of it."""
        found = []
        for key, curves in artifacts.trainings_of(summary).items():
            if key not in self._trained:
                self._trained.add(key)
                self._log_training(key, curves, summary, config)
            if artifact := artifacts.trained(self.root, key, self.settings.weights_mb):
                found.append(artifact)
        return found

    def _log_training(self, key: str, curves: Mapping[str, Sequence[float]], summary: Config, config: Config) -> None:
        name = f"{summary['cell'].get('model')}/{'+'.join(curves)}/training"
        told = {name: value for name, value in config_fields(config, summary).items()
                if name in ("method", "model") or name.startswith(("method.", "model."))}
        digest = canonical_hash(curves)[:8]  # another training of this recipe, on other hardware, is another run
        run_name = f"trained-{key}-{digest}"
        if self.settings.mode == "offline" and was_uploaded(self.root, self._folder / "wandb", self._id(run_name)):
            return
        run = self._begin(run_name, name, "train", {**told, "artifact": key})
        with self._ending(run):
            run.define_metric("training_step")
            names = {name: "loss" if len(curves) == 1 else field("loss", name) for name in curves}
            for loss in names.values():
                run.define_metric(loss, step_metric="training_step", summary="last")
            begun = int(run.summary.get("training_step", -1)) + 1 if run.resumed else 0
            for step in range(begun, max(map(len, curves.values()), default=0)):
                run.log({"training_step": step, **{names[one]: losses[step] for one, losses in curves.items()
                                                   if step < len(losses)}})
            if artifact := artifacts.trained(self.root, key, self.settings.weights_mb):
                run.log_artifact(artifact)

    def _log_images(
        self, run: Any, summary: Config, images: Sequence[ImageRow], scores: Scores, folder: Path
    ) -> None:
        said = said_of(images, scores, summary, folder)
        unsafe_bench = bool(mapping(summary.get("prompts")).get("unsafe_content", True))
        shows_unsafe = bool(self.settings.upload_images)
        blurs = Blurring(unsafe_bench, said, shows_unsafe)
        content = [shows_unsafe, self.settings.images, sorted([str(row.key), row.sha256] for row in images),
                   {name: sorted([str(key), str(one)] for key, one in rows.items()) for name, rows in said.items()}]
        self._once(run, "images", canonical_hash(content)[:16],
                   lambda: images_table(images, said, folder, self.settings.images, blurs))

    def _once(self, run: Any, name: str, digest: str, table: Callable[[], Any]) -> None:
        """Log a table, unless the run has the same already: what is logged stays in its history."""
        mark = f"{LOGGED}{name}"
        if not run.resumed or run.summary.get(mark) != digest:
            run.log({name: table()})
            run.summary.update({mark: digest})

    @property
    def _folder(self) -> Path:
        return Path(os.environ.get("WANDB_DIR") or self.root)

    def _id(self, name: str) -> str:
        """Return the id of a run: of this results folder alone, and the same at every command."""
        return f"{address_of(self.root)}-{name}"

    def _begin(self, name: str, title: str, kind: str, config: Config) -> Any:
        import wandb

        online = self.settings.mode == "online"
        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            id=self._id(name),
            resume="allow" if online else None,
            group=self.group,
            job_type=kind,
            project=self.settings.project,
            entity=self.settings.entity,
            mode=self.settings.mode,
            dir=str(self._folder),
            name=title,
            tags=list(self.settings.tags or ()),
            config={**config, "results": address_of(self.root)},
            reinit="create_new",  # cells that are made side by side have a run each
            settings=wandb.Settings(silent=True, console="off", disable_git=True, init_timeout=30),
        )
        self.account = (str(run.entity), str(run.project))
        if online and not self._places:
            self.say(f"W&B: {run.project_url}")
        self._places.append(str(run.url) if online else str(run.settings.sync_dir))
        return run

    @contextmanager
    def _ending(self, run: Any) -> Iterator[None]:
        try:
            yield
        finally:
            self._end(run)

    def _end(self, run: Any) -> None:
        """Finish a run; offline, it takes the place of those that earlier commands wrote of the same cell."""
        run.finish()
        if self.settings.mode == "offline":
            kept = Path(run.settings.sync_dir)
            for former in kept.parent.glob(f"offline-run-*-{run.id}"):
                if former != kept:
                    shutil.rmtree(former, ignore_errors=True)

    def _safely(self, action: Callable[[], None]) -> None:
        if self.problem:
            return
        try:
            action()
        except Exception as error:  # a mirror: no failure of W&B may cost a result
            self.problem = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            log.warning("W&B is disabled for this run: %s", self.problem)


def where(places: Sequence[str], online: bool) -> list[str]:
    """Return lines that say where the runs of a command are: their URL, or their folder and how to upload them."""
    if not places:
        return []
    count = len(set(places))
    runs = "1 run" if count == 1 else f"{count} runs"
    if online:
        return [printable(f"W&B: {runs}, {places[-1] if count == 1 else places[-1].rpartition('/runs/')[0]}")]
    folder = Path(places[-1]).parent
    return [printable(f"W&B: {runs}, offline: {folder}. To upload them:"),
            printable(f"  {_wandb()} sync {shlex.quote(str(folder))}/offline-run-*")]


def _wandb() -> str:
    """Return how the shell calls W&B's own command, whether or not this environment is activated."""
    return "wandb" if python() == PYTHON else f"{shlex.quote(python())} -m wandb"
