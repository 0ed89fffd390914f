"""`python -m harness prefetch` with a run's settings: fetch what its cells need, once a node; runs then go offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness.cells.fetching import prefetch
from harness.cli.answering import answer_words
from harness.cli.arguments import parse_arguments
from harness.cli.compose import compose_jobs

FLAGS = ("config_dirs", "config_name", "multirun")
HELP = """\
Download what a run needs: the model's files (safetensors only), prompt files, and weights of evaluators and
published methods.

usage: python -m harness prefetch [-m] [--config-dir DIR] [-cn NAME] [name=value ...]    as python -m harness

  python -m harness prefetch -m model=sd14,sdxl bench=i2p
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 all is here, 2 a mistake or something that could not be had."""
    return answer_words("prefetch", words, HELP, _prefetch,
                        "stopped; complete files are kept. To resume:", runs_bare=True)


def _prefetch(words: Sequence[str]) -> None:
    arguments = parse_arguments(words, "prefetch", FLAGS)
    prefetch(compose_jobs(arguments.overrides, arguments.multirun, arguments.config_dirs, arguments.config_name))


if __name__ == "__main__":
    sys.exit(main())
