"""`python -m harness leaderboard [results]`: the leaderboard of any set of runs, as HTML, Markdown, CSV and JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, Given, parse_arguments, read_given
from harness.errors import HarnessError, InvalidValueError, printable
from harness.report.leaderboard import PICTURES, Extra, Selection, write_leaderboard
from harness.report.published_numbers import FOLDER

SETTINGS = ("results", "out", "images", "published", "model", "method", "bench", "corrected", "calibration")
HELP = f"""\
Rebuild the leaderboard of a results folder: leaderboard.html, .md, .csv and .json.

usage: python -m harness leaderboard [RESULTS] [name=value ...]

  python -m harness leaderboard                                  of results/
  python -m harness leaderboard results/paper model=sd14,sdxl    of these models only
  python -m harness leaderboard corrected=true                   rates corrected for the judge's errors

  results=DIR       the results folder, also as the first word (default: results)
  out=DIR           folder to write to (default: the results folder)
  images=N          images per row in the grids (default: {PICTURES})
  published=DIR     numbers that papers report, shown beside ours (default: {FOLDER} if it exists; null: none)
  model=A,B         show these models only; method=A,B and bench=A,B likewise
  corrected=true    unsafe rates corrected for the judge's errors, if it was calibrated
  calibration=FILE  a calibration that is not in the results folder; may be repeated
  -h, --help        this text
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 written, 2 a mistake, or a broken summary, which is listed."""
    return answer_words("leaderboard", words, HELP, _write,
                        "stopped; files already written are complete. To run again:", runs_bare=True)


def _write(words: Sequence[str]) -> int:
    arguments = parse_arguments(words, "leaderboard", OF_COMMANDS, SETTINGS, switches=("corrected",))
    given = read_given(arguments, SETTINGS, things="a results folder")
    results = user_path("results", _results(given))
    out = given.text("out")
    selection = Selection(*(tuple(given.names(name)) for name in ("model", "method", "bench")))
    calibrations = tuple(user_path("calibration", path) for path in given.texts("calibration"))
    extra = Extra(calibrations, _is_true(given, "corrected"), _published(given.text("published")))
    board = write_leaderboard(results, user_path("out", out) if out else None, _pictures(given), selection, extra)
    print(f"{board.n_runs} runs: {' '.join(map(str, board.files))}")
    if board.broken:
        places = ", ".join(str(run.folder) for run in board.broken)
        print(printable(f"error: {len(board.broken)} broken, listed as such: {places}"), file=sys.stderr)
    for problem in board.problems:
        print(printable(f"error: {problem}"), file=sys.stderr)
    return HarnessError.exit_code if board.broken or board.problems else 0


def _results(given: Given) -> str:
    named = [*given.things, *given.texts("results")]
    if len(named) > 1:
        raise InvalidValueError(f"{len(named)} results folders given: {', '.join(named)}.", "Pass one.")
    return named[0] if named else "results"


def _pictures(given: Given) -> int:
    text = given.text("images", str(PICTURES)) or ""
    if not text.removeprefix("-").isdecimal():
        raise InvalidValueError(f"images={text}: an integer of at least 0 is needed.")
    return int(text)


def _is_true(given: Given, name: str) -> bool:
    text = given.text(name, "false")
    if text not in ("true", "false"):
        raise InvalidValueError(f"{name}={text}: true or false is needed.")
    return text == "true"


def _published(given: str | None) -> Path | None:
    """Return the folder that is asked for; that of a clone of the repository where none is."""
    if given is not None:
        return None if given in ("-", "null") else user_path("published", given)
    return FOLDER if FOLDER.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
