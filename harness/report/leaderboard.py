"""The leaderboard of any set of runs, as HTML, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cells.calibration import Calibrations, load_calibrations
from harness.errors import HarnessError, InvalidValueError, unknown_name
from harness.lib.atomic import write_atomic
from harness.records import Metric
from harness.report.published_numbers import Reported, read_published
from harness.report.run import Run
from harness.report.runs import load_runs

if TYPE_CHECKING:
    from harness.report.table import Row

PICTURES = 8
NAMES = ("html", "md", "csv", "json")


@dataclass(frozen=True)
class Leaderboard:
    """What was written, the runs whose summary could not be read, and what is wrong with calibrations."""

    files: tuple[Path, ...]
    n_runs: int
    broken: tuple[Run, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Which runs to show; empty means all."""

    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    benches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extra:
    """What is shown beside our numbers.

    `calibrations`: files beside those of the results folder; `corrected`: rates corrected for the judge's errors, too;
    `published`: a folder of numbers that papers report.
    """

    calibrations: tuple[Path, ...] = ()
    corrected: bool = False
    published: Path | None = None


def write_leaderboard(
    results: Path, out: Path | None = None, images: int = PICTURES, selection: Selection | None = None,
    extra: Extra | None = None,
) -> Leaderboard:  # fmt: skip
    """Write leaderboard.{html,md,csv,json} to `out` (default: the results folder). Raises HarnessError."""
    if images < 0:
        raise InvalidValueError(f"images is {images}.", "Give 0 or more.")
    extra = extra or Extra()
    reported = read_published(extra.published) if extra.published else []
    everything = load_runs(results)
    runs = _select(everything, selection or Selection())
    broken = tuple(run for run in runs if run.status == "broken")
    if not any(run.readable for run in runs):
        first = broken[0] if broken else runs[0]
        reason = "; ".join(first.problems)
        raise HarnessError(f"no readable summary among {len(runs)} runs in '{results}': {first.folder}: {reason}.")
    calibrations = load_calibrations(results, extra.calibrations)
    judged = _judged(runs, calibrations, extra.corrected)
    files = _write_all(_rows(runs, everything, judged), out or results, images, reported)
    return Leaderboard(files, len(runs), broken, calibrations.problems)


def _rows(runs: Sequence[Run], everything: Sequence[Run], judged: Mapping[str, Mapping[str, Metric]]) -> list[Row]:
    """Return the rows to show, ranked among all of the results folder."""
    from harness.report.ranks import ranked
    from harness.report.table import build_rows
    from harness.report.variants import row_labels, variants

    readable = [run for run in runs if run.readable]
    return build_rows(runs, row_labels(readable, variants(readable)), judged, ranked(everything))


def _judged(runs: Sequence[Run], calibrations: Calibrations, corrected: bool) -> dict[str, dict[str, Metric]]:
    from harness.report.judges import beside

    return {run.cell_id: beside(run, calibrations, corrected) for run in runs}


def _write_all(rows: Sequence[Row], out: Path, images: int, reported: Sequence[Reported]) -> tuple[Path, ...]:
    from harness.report import elsewhere, export
    from harness.report.html import page
    from harness.report.published import beside, with_csv, with_json, with_markdown
    from harness.report.variants import variants

    named = variants([row.run for row in rows if row.run.readable])
    published = beside(rows, reported)
    rest = elsewhere.unplaced(published, reported)
    texts = (
        page(rows, named, images, published, elsewhere.lines(rest)),
        elsewhere.with_markdown(with_markdown(export.markdown(rows), published), rest),
        with_csv(export.csv_text(rows), rows, published),
        elsewhere.with_json(with_json(export.json_text(rows), published), rest),
    )
    files = tuple(out / f"leaderboard.{name}" for name in NAMES)
    for path, text in zip(files, texts, strict=True):
        write_atomic(path, text.encode("utf-8", "backslashreplace"))
    return files


def _select(runs: Sequence[Run], selection: Selection) -> list[Run]:
    for kind, wanted, there in (
        ("model", selection.models, {run.model for run in runs}),
        ("method", selection.methods, {run.method for run in runs}),
        ("bench", selection.benches, {run.bench for run in runs}),
    ):
        for name in wanted:
            if name not in there:
                raise unknown_name(kind, name, there)
    chosen = [
        run for run in runs
        if (not selection.models or run.model in selection.models)
        and (not selection.methods or run.method in selection.methods)
        and (not selection.benches or run.bench in selection.benches)
    ]  # fmt: skip
    if not chosen:
        raise HarnessError("no run matches --model, --method and --bench together.")
    return chosen
