"""`python -m harness method=... model=... bench=...`: compose, plan, run; with a command before it: score, ..."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from harness.cli.answering import COMMAND, HELP_FLAGS
from harness.cli.arguments import parse_arguments
from harness.cli.commands import COMMANDS, answer_command, unknown_command
from harness.errors import HarnessError
from harness.lib.ending import INTERRUPTED, stoppable


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 something failed, 2 a user's mistake, 130 interrupted."""
    from harness.lib.streams import prepare_streams, system_errors

    prepare_streams()
    words = sys.argv[1:] if words is None else words
    if words and words[0] in COMMANDS:
        return answer_command(words[0], words[1:])
    command = [*COMMAND, *words]
    with stoppable(command):
        try:
            with system_errors():
                return _answer(words, command)
        except HarnessError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print(f"stopped; what was made is kept. To go on, run the same command again:\n  {shlex.join(command)}")
            return INTERRUPTED


def _answer(words: Sequence[str], command: Sequence[str]) -> int:
    if HELP_FLAGS & set(words):
        from harness.cli.help import help_text

        print(help_text(words), end="")
        return 0
    if "--version" in words:
        from harness import __version__

        print(__version__)
        return 0
    return _run(words, command)


def _run(words: Sequence[str], command: Sequence[str]) -> int:
    arguments = parse_arguments(words, flags=("config_dirs", "multirun", "show"))
    for word in arguments.overrides:
        if "=" not in word and word[:1] not in "+~":
            raise unknown_command(word, arguments.overrides)
    from harness.cli.compose import compose_jobs, sweep_notes

    jobs = compose_jobs(arguments.overrides, arguments.multirun, arguments.config_dirs)
    if arguments.show:
        print(json.dumps([job.__dict__ for job in jobs], indent=2, default=str))
        return 0
    from harness.run import run

    return run(jobs, command, sweep_notes(arguments.overrides))


if __name__ == "__main__":
    sys.exit(main())
