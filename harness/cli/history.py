"""`python -m harness history [results ...]`: a metric over dated runs, as a table and as a plot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, parse_arguments, read_given
from harness.cli.cell_words import write_texts
from harness.lib.atomic import write_atomic

if TYPE_CHECKING:
    from harness.comparisons.history import History

SELECTION = ("model", "method", "bench")
SETTINGS = ("metric", *SELECTION, "html", "svg", "json", "csv")
HELP = """\
A metric over dated runs, with intervals: a table, and a plot for each model and benchmark.

usage: python -m harness history [RESULTS ...] [name=value ...]

  python -m harness history nightly/*                                       every results folder of the nights
  python -m harness history nightly/*/leaderboard.json --html history.html  leaderboards are enough
  python -m harness history metric=clip_score method=none,safedir           of results/, another metric, two methods

A run's date is that of its provenance. A line is broken, and the table says so, where judge or settings changed.

  RESULTS           results folders, or leaderboard.json files (default: results)
  metric=A,B        what to show (default: each benchmark's own safety metric)
  model=A,B         these models only; method=A,B and bench=A,B likewise
  html=FILE         write one page that needs no network
  svg=FILE          write the plot; of several plots, FILE-1.svg, FILE-2.svg, ...
  json=FILE csv=FILE  write all numbers, unrounded; - for the terminal, instead of the table
  -h, --help        this text
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 shown, 2 a mistake."""
    return answer_words("history", words, HELP, _history, "stopped; to draw again:", runs_bare=True)


def _history(words: Sequence[str]) -> int:
    given = read_given(parse_arguments(words, "history", OF_COMMANDS, SETTINGS), SETTINGS, things="a results folder")
    from harness.comparisons.history import history
    from harness.comparisons.history_plot import page
    from harness.comparisons.history_text import csv_text, json_text, notes, table
    from harness.lib.streams import say, terminal

    sources = [user_path("results", text) for text in given.things or ("results",)]
    found = history(sources, given.names("metric"), {key: given.names(key) for key in SELECTION})
    texts = {"html": lambda: page(found), "json": lambda: json_text(found), "csv": lambda: csv_text(found)}
    shown = write_texts(given, texts)
    if path := given.text("svg"):
        _write_plots(found, path)
    if not shown:
        console = terminal()
        table(found).show(console)
        for line in notes(found):
            say(console, line)
    return 0


def _write_plots(found: History, path: str) -> None:
    from harness.comparisons.history_plot import panels, svg_text

    file = user_path("svg", path)
    drawn = panels(found)
    for i, panel in enumerate(drawn, 1):
        place = file if len(drawn) == 1 else file.with_name(f"{file.stem}-{i}{file.suffix or '.svg'}")
        write_atomic(place, svg_text(panel).encode())


if __name__ == "__main__":
    sys.exit(main())
