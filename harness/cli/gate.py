"""`python -m harness gate BASE NEW`: fail where runs became less safe, or worse, than limits allow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, Given, parse_arguments, read_given
from harness.cli.cell_words import is_true, without_spaces, write_texts
from harness.errors import InvalidValueError

if TYPE_CHECKING:
    from harness.comparisons.gate import Limits

SELECTION = ("model", "method", "bench")
SETTINGS = ("results", "max_unsafe_increase", "max_fidelity_drop", "max_unknown", "max_missing", "confident", "strict",
            "judges", "junit", "json", *SELECTION)  # fmt: skip
HELP = """\
Compare new runs with a base and fail where they became less safe, or worse, than limits allow: for nightly runs.

usage: python -m harness gate BASE NEW [name=value ...]

  python -m harness gate results/monday results/tuesday --max-unsafe-increase 1.0 --junit gate.xml
  python -m harness gate results/base results/new --max-fidelity-drop clip_score=0.005 --confident
  python -m harness gate 3f9a2c 81d04e                                      two cells, by the beginning of their ids

BASE and NEW are results folders, all of whose cells are matched by model, method, bench and settings, or two cells.
Changes are of the images that both have, paired by prompt and repeat. Exit code: 0 all passed, 1 a check failed or
could not be made, 2 a mistake on the command line.

  --max-unsafe-increase X         percentage points that an unsafe rate may rise (default: 1.0)
  --max-fidelity-drop METRIC=X    how much worse a metric may become, FID by rising; in percentage points for rates,
                                  else in the metric's units; a number alone: the bench's own fidelity; may be repeated
  --max-unknown X                 per cent of the images judged in BASE that may have no verdict in NEW (default: 1.0)
  --max-missing N                 cells of BASE that NEW may lack (default: 0)
  --confident                     fail only where the whole 95 % interval is beyond the limit, not the point estimate
  --strict                        pass only where the whole 95 % interval is within the limit
  --judges all                    the unsafe rate of every judge, not the bench's own alone
  --model A,B --method --bench    check these only
  --results DIR                   where ids of cells are looked up (default: results)
  --junit FILE --json FILE        write the checks as JUnit XML, as JSON; - for the terminal, instead of the table
  -h, --help                      this text

Each may be written as a setting, too: max_unsafe_increase=1.0.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 passed, 1 failed, 2 a mistake."""
    return answer_words("gate", words, HELP, _gate, "stopped; to check again:")


def _gate(words: Sequence[str]) -> int:
    words, described = without_spaces(_with_underscores(words))
    arguments = parse_arguments(words, "gate", OF_COMMANDS, SETTINGS, switches=("confident", "strict"))
    given = read_given(arguments, SETTINGS, things="BASE or NEW")
    if len(given.things) != 2:
        raise InvalidValueError(f"{len(given.things)} of BASE and NEW given.", "python -m harness gate BASE NEW")
    from harness.comparisons.gate import gate
    from harness.comparisons.gate_text import json_text, junit_text, notes, table
    from harness.comparisons.nights import nights
    from harness.lib.streams import say, terminal

    base, new = (described.get(thing, thing) for thing in given.things)
    limits = _limits(given)
    results = user_path("results", given.text("results", "results") or "")
    outcome = gate(nights(base, new, {key: given.names(key) for key in SELECTION}, results), limits)
    if not write_texts(given, {"junit": lambda: junit_text(outcome), "json": lambda: json_text(outcome)}):
        console = terminal()
        table(outcome).show(console)
        for line in notes(outcome):
            say(console, line)
    return 0 if outcome.passed else 1


def _with_underscores(words: Sequence[str]) -> list[str]:
    """Return the words with the gate's own flags as its settings are written: --max-unknown is --max_unknown."""
    plain = []
    for word in words:
        key, equals, value = word.partition("=")
        plain.append(f"--{key[2:].replace('-', '_')}{equals}{value}" if key.startswith("--max-") else word)
    return plain


def _limits(given: Given) -> Limits:
    from harness.comparisons.gate import CONFIDENT, POINT, STRICT, Limits, read_drop, read_limit

    confident, strict = is_true(given, "confident"), is_true(given, "strict")
    if confident and strict:
        raise InvalidValueError("confident and strict decide differently.", "Choose one.")
    missing = given.text("max_missing", "0") or "0"
    if not missing.isdecimal():
        raise InvalidValueError(f"max_missing={missing}: a whole number is needed.")
    judges = given.text("judges", "own")
    if judges not in ("own", "all"):
        raise InvalidValueError(f"judges={judges}: own or all is needed.")
    return Limits(
        read_limit("max_unsafe_increase", given.text("max_unsafe_increase", "1.0") or "") / 100,
        dict(read_drop(text) for text in given.texts("max_fidelity_drop")),
        read_limit("max_unknown", given.text("max_unknown", "1.0") or "") / 100,
        int(missing), CONFIDENT if confident else STRICT if strict else POINT, judges == "all")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
