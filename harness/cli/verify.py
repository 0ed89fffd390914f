"""`python -m harness verify RUN`: whether a run's files and numbers are what its rows say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, parse_arguments, read_given
from harness.errors import InvalidValueError
from harness.lib.streams import say, terminal

if TYPE_CHECKING:
    from harness.verification import Verified

HELP = """\
Check runs: every file against its hash, every number of summary.json against the rows that it was counted from.

usage: python -m harness verify RUN_OR_BUNDLE ... [--config-dir DIR]

  python -m harness verify results/runs/micro/uce/micro_i2p/*    runs
  python -m harness verify submission                            a bundle that `submit` wrote: no images are needed

What does not match is named, and so is what cannot be checked here, such as a comparison with a run that is elsewhere.
Nothing is changed, and a run folder executes nothing.

  --config-dir DIR    classes and benches of your own package; may be repeated
  -h, --help          this text

Exit code: 0 all that can be checked matches, 1 something does not, 2 a mistake.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 it matches, 1 it does not, 2 a mistake."""
    return answer_words("verify", words, HELP, _verify, "stopped; nothing was changed. To check again:")


def _verify(words: Sequence[str]) -> int:
    given = read_given(parse_arguments(words, "verify", OF_COMMANDS), (), things="run folders and bundles")
    if not given.things:
        raise InvalidValueError("nothing to verify.", "Name run folders: results/runs/<model>/<method>/<bench>/<cell>.")
    console, failed = terminal(), 0
    for word in given.things:
        for one in _checked(user_path("run folder", word), given.config_dirs):
            for line in one.lines():
                say(console, line)
            failed += not one.matches
    return 1 if failed else 0


def _checked(place: Path, config_dirs: Sequence[str]) -> list[Verified]:
    from harness.cli.benches import Benches
    from harness.lib.trusted_targets import targets_of
    from harness.verification import is_bundle, verify_bundle, verify_run

    benches, trusted = Benches(config_dirs), sorted(targets_of(config_dirs))
    return verify_bundle(place, benches, trusted) if is_bundle(place) else [verify_run(place, benches, trusted)]


if __name__ == "__main__":
    sys.exit(main())
