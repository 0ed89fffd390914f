"""`python -m harness.leaderboard [results]`: the leaderboard of any set of runs, as HTML, Markdown, CSV and JSON."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.calibration import Calibrations, load_calibrations
from harness.ending import INTERRUPTED, stoppable
from harness.errors import HarnessError, InvalidValueError, printable, unknown_name
from harness.files import user_path, write_atomic
from harness.published import FOLDER, Reported, read_published
from harness.records import Metric
from harness.report.run import Run
from harness.report.runs import load_runs
from harness.streams import prepare_streams, system_errors

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
    runs = _select(load_runs(results), selection or Selection())
    broken = tuple(run for run in runs if run.status == "broken")
    if not any(run.readable for run in runs):
        first = broken[0] if broken else runs[0]
        reason = "; ".join(first.problems)
        raise HarnessError(f"no readable summary among {len(runs)} runs in '{results}': {first.folder}: {reason}.")
    calibrations = load_calibrations(results, extra.calibrations)
    judged = _judged(runs, calibrations, extra.corrected)
    return Leaderboard(_write_all(runs, judged, out or results, images, reported), len(runs), broken,
                       calibrations.problems)


def _judged(runs: Sequence[Run], calibrations: Calibrations, corrected: bool) -> dict[str, dict[str, Metric]]:
    from harness.report.judges import beside

    return {run.cell_id: beside(run, calibrations, corrected) for run in runs}


def _write_all(
    runs: Sequence[Run], judged: Mapping[str, Mapping[str, Metric]], out: Path, images: int,
    reported: Sequence[Reported],
) -> tuple[Path, ...]:  # fmt: skip
    from harness.report import elsewhere, export
    from harness.report.html import page
    from harness.report.published import beside, with_csv, with_json, with_markdown
    from harness.report.table import build_rows
    from harness.report.variants import row_labels, variants

    readable = [run for run in runs if run.readable]
    named = variants(readable)
    rows = build_rows(runs, row_labels(readable, named), judged)
    found = beside(rows, reported)
    rest = elsewhere.unplaced(found, reported)
    texts = (
        page(rows, named, images, found, elsewhere.lines(rest)),
        elsewhere.with_markdown(with_markdown(export.markdown(rows), found), rest),
        with_csv(export.csv_text(rows), rows, found),
        elsewhere.with_json(with_json(export.json_text(rows), found), rest),
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
        raise HarnessError("no run fits --model, --method and --bench together.")
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.leaderboard", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"), help="default: results")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the results folder)")
    parser.add_argument(
        "--images", type=int, default=PICTURES, help=f"pictures a row in the grids (default: {PICTURES})"
    )
    parser.add_argument(
        "--published", type=Path, metavar="FOLDER",
        help=f"numbers that papers report, shown beside ours (default: {FOLDER} where it is; - for none)",
    )  # fmt: skip
    for name in ("model", "method", "bench"):
        parser.add_argument(f"--{name}", action="append", default=[], help=f"show this {name} only; may be repeated")
    parser.add_argument("--corrected", action="store_true",
                        help="show unsafe rates corrected for the judge's errors, where it was calibrated")
    parser.add_argument("--calibration", action="append", default=[], type=Path, metavar="FILE",
                        help="a calibration that is not in the results folder; may be repeated")
    return parser


def _published(given: Path | None) -> Path | None:
    """Return the folder that is asked for; that of a clone of the repository where none is."""
    if given is not None:
        return None if str(given) == "-" else given
    return FOLDER if FOLDER.is_dir() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the leaderboard and say where it is. Return 2 when a summary is broken, after listing it."""
    prepare_streams()
    command = ["python", "-m", "harness.leaderboard", *(sys.argv[1:] if arguments is None else arguments)]
    with stoppable(command):
        try:
            return _write(_parser().parse_args(arguments))
        except KeyboardInterrupt:
            print(f"stopped; files that are there are whole. To begin again: {shlex.join(command)}", file=sys.stderr)
            return INTERRUPTED


def _write(options: argparse.Namespace) -> int:
    selection = Selection(tuple(options.model), tuple(options.method), tuple(options.bench))
    try:
        with system_errors():
            results = user_path("results", str(options.results))
            out = user_path("--out", str(options.out)) if options.out else None
            extra = Extra(tuple(options.calibration), options.corrected, _published(options.published))
            board = write_leaderboard(results, out, options.images, selection, extra)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{board.n_runs} runs: {' '.join(map(str, board.files))}")
    if board.broken:
        places = ", ".join(str(run.folder) for run in board.broken)
        print(printable(f"error: {len(board.broken)} broken, listed as such: {places}"), file=sys.stderr)
    for problem in board.problems:
        print(printable(f"error: {problem}"), file=sys.stderr)
    return HarnessError.exit_code if board.broken or board.problems else 0


if __name__ == "__main__":
    sys.exit(main())
