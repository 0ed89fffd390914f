"""`python -m harness licences [EVALUATOR ...]`: under which licences evaluators' weights are."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.table import Table

from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, parse_arguments, read_given
from harness.errors import unknown_name
from harness.lib.licences import weight_licences
from harness.lib.streams import cell_text, say, terminal

HELP = """\
Show the licences of the weights that evaluators use, each with where it is stated.

usage: python -m harness licences [EVALUATOR ...]

  python -m harness licences                          of all evaluators that ship with the harness
  python -m harness licences inappropriate nudenet    of these

"not stated" means that it was looked for and not found, which is no permission. This is no legal advice.

  -h, --help          this text
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 shown, 2 a mistake."""
    return answer_words("licences", words, HELP, _show, "stopped; nothing was changed. To show them again:", runs_bare=True)


def _show(words: Sequence[str]) -> None:
    names = read_given(parse_arguments(words, "licences", OF_COMMANDS), (), things="evaluators").things
    known = {name for one in weight_licences() for name in one.evaluators}
    for name in names:
        if name not in known:
            raise unknown_name("evaluator", name, known)
    table = Table("weights", "licence", "stated in", "note", "evaluators")
    for one in weight_licences(names):
        used = [name for name in one.evaluators if not names or name in names]
        table.add_row(*map(cell_text, (one.weights, one.licence, one.source, one.note, ", ".join(used))))
    console = terminal()
    console.print(table)
    say(console, "Stated by their publishers in November 2026; this is no legal advice.")


if __name__ == "__main__":
    sys.exit(main())
