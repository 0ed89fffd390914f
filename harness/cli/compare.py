"""`python -m harness compare A B [...]`: any cells of one bench, paired by prompt and repeat."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, Given, parse_arguments, read_given
from harness.cli.cell_words import CELL_WORDS, is_true, named_cells, without_spaces, write_texts
from harness.errors import InvalidValueError

OWN = ("results", "metrics", "noninferior", "equivalent", "all", "categories", "json", "csv")
HELP = """\
Compare any cells of one bench: method with method, model with model, seed with seed, fine-tuned with not.

usage: python -m harness compare A B [...] [name=value ...]

  python -m harness compare 3f9a2c 81d04e                                two cells, by the beginning of their ids
  python -m harness compare method=safedir,none model=sd14 bench=i2p     by words; the first against each other one
  python -m harness compare "method=safedir method.strength=2" "method=sld_max" bench=i2p
  python -m harness compare method=uce,none bench=coco --noninferior clip_score=0.005 --equivalent fid=1

A cell is a run folder, the beginning of its id, or words in quotes. Images are paired by prompt and repeat; the lines
below the table say whether the pairs share their noise. Differences are A - B with 95 % intervals: McNemar's exact test
for one image a prompt, sign flips by prompt otherwise; p values are adjusted over all tests of the command.

  results=DIR             the results folder (default: results)
  model=, method=, bench=, seed=, limit=, repeats=, method.<setting>=    which cells; a,b names several
  metrics=A,B             compare only these metrics, such as unsafe_rate/nudenet; fewer tests, smaller adjusted p
  noninferior=METRIC=X    is A worse than B by less than X? By the 95 % interval (one-sided test at 2.5 %)
  equivalent=METRIC=X     do they differ by less than X? By the 90 % interval (two one-sided tests at 5 %)
                          X is in percentage points for rates, else in the metric's units; both may be repeated
  all=true                each cell with each, not the first with the others
  categories=true         each category of the bench, too
  json=FILE csv=FILE      write all numbers, unrounded; - for the terminal, instead of the table
  -h, --help              this text
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 compared, 2 a mistake."""
    return answer_words("compare", words, HELP, _compare, "stopped; to compare again:")


def _compare(words: Sequence[str]) -> int:
    words, described = without_spaces(words)
    arguments = parse_arguments(words, "compare", OF_COMMANDS, (*OWN, *CELL_WORDS), switches=("all", "categories"))
    given = read_given(arguments, (*OWN, *CELL_WORDS), ("method.",), things="a cell")
    from harness.comparisons.compared import Asked, compare_folders
    from harness.comparisons.export import csv_text, json_text
    from harness.comparisons.text import notes, table
    from harness.lib.streams import say, terminal

    folders = named_cells(given, described, user_path("results", given.text("results", "results") or ""))
    asked = Asked(tuple(given.names("metrics")), margins(given, "noninferior"), margins(given, "equivalent"),
                  is_true(given, "all"), is_true(given, "categories"))
    compared = compare_folders(folders, asked)
    if write_texts(given, {"json": lambda: json_text(compared), "csv": lambda: csv_text(compared)}):
        return 0
    console = terminal()
    table(compared).show(console)
    say(console, "")
    for line in notes(compared):
        say(console, line)
    return 0


def margins(given: Given, name: str) -> dict[str, object]:
    """Read every METRIC=X of a setting."""
    found: dict[str, object] = {}
    for text in given.texts(name):
        metric, equals, margin = text.rpartition("=")
        if not equals or not metric:
            raise InvalidValueError(f"{name}={text}: METRIC=MARGIN is needed.", f"Such as {name}=clip_score=0.005.")
        found[metric] = margin
    return found


if __name__ == "__main__":
    sys.exit(main())
