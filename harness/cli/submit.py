"""`python -m harness submit RUN`: a bundle of verified runs for a pull request to a public board."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness.checks import user_path
from harness.cli.answering import COMMAND, answer_words
from harness.cli.arguments import OF_COMMANDS, parse_arguments, read_given
from harness.errors import InvalidValueError
from harness.lib.formatting import size
from harness.lib.shell import typed
from harness.lib.streams import say, terminal

SETTINGS = ("out",)
HELP = """\
Bundle runs for a pull request to a public board: rows, verdicts, numbers, provenance and the hash of every file.

usage: python -m harness submit RUN ... [out=FOLDER] [--config-dir DIR]

  python -m harness submit results/runs/sd14/*/i2p/* out=my_submission

The runs that they are compared with come along. There are never images in a bundle; prompts stand as hashes, and names
of users and machines are left out. Runs that are not complete, or that `verify` finds a fault with, are refused.
Whoever receives it checks it without the images: python -m harness verify my_submission

  out=FOLDER          a new folder (default: submission)
  --config-dir DIR    classes and benches of your own package; may be repeated
  -h, --help          this text
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 written, 2 a mistake, or a run that is refused."""
    return answer_words("submit", words, HELP, _submit, "stopped; nothing was written. To bundle again:")


def _submit(words: Sequence[str]) -> None:
    from harness.cli.benches import Benches
    from harness.lib.trusted_targets import targets_of
    from harness.verification import write_bundle

    given = read_given(parse_arguments(words, "submit", OF_COMMANDS, SETTINGS), SETTINGS, things="run folders")
    if not given.things:
        raise InvalidValueError("nothing to submit.", "Name run folders: results/runs/<model>/<method>/<bench>/<cell>.")
    folders = [user_path("run folder", word) for word in given.things]
    out = user_path("out", given.text("out", "submission") or "")
    bundle = write_bundle(folders, out, Benches(given.config_dirs), sorted(targets_of(given.config_dirs)))
    console = terminal()
    with_them = f" and {len(bundle.baselines)} that they are compared with" if bundle.baselines else ""
    say(console, f"{len(bundle.runs)} runs{with_them}, {size(bundle.n_bytes)}, no images: {bundle.folder}")
    say(console, "To check it as its receiver will:")
    say(console, f"  {typed([*COMMAND, 'verify', str(bundle.folder)])}")


if __name__ == "__main__":
    sys.exit(main())
