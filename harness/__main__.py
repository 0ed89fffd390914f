"""`python -m harness method=... model=... bench=...`: compose, plan, run; with a command before it: score, ..."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness.cli.answering import COMMAND, HELP_FLAGS
from harness.cli.arguments import Arguments, parse_arguments
from harness.cli.commands import COMMANDS, answer_command, unknown_command
from harness.errors import HarnessError
from harness.lib.ending import INTERRUPTED, stoppable
from harness.lib.shell import typed


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
            print(f"stopped; finished work is kept. To resume, run the same command again:\n  {typed(command)}")
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
    arguments = parse_arguments(words)
    for word in arguments.overrides:
        if "=" not in word and word[:1] not in "+~":
            raise unknown_command(word, arguments.overrides)
    if arguments.show or arguments.info or arguments.completion:
        return _show(arguments)
    from harness.cli.compose import composer_of, sweep_notes

    with composer_of(arguments.overrides, arguments.config_dirs, arguments.config_name) as composer:
        search = composer.search(arguments.multirun)
        if search is not None:
            from harness.cli.tuning import tune

            return tune(composer, search, command)
        jobs = composer.jobs(arguments.multirun)
    from harness.run import run

    return run(jobs, command, [*sweep_notes(arguments.overrides), *composer.notes()])


def _show(arguments: Arguments) -> int:
    from harness.cli import show

    if arguments.completion:
        show.complete(arguments)
    elif arguments.info:
        show.show_info(arguments)
    else:
        print(show.config_text(arguments), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
