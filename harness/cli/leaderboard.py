"""`python -m harness.leaderboard [results]`: the leaderboard of any set of runs, as HTML, Markdown, CSV and JSON."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.checks import user_path
from harness.errors import HarnessError, printable
from harness.lib.ending import INTERRUPTED, stoppable
from harness.lib.streams import prepare_streams, system_errors
from harness.report.leaderboard import PICTURES, Extra, Selection, write_leaderboard
from harness.report.published_numbers import FOLDER


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
