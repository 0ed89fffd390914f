"""`python -m harness method=... model=... bench=...`: compose, plan, run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from harness.cli.arguments import parse_arguments
from harness.errors import HarnessError
from harness.lib.ending import INTERRUPTED, stoppable

HELP = """\
Benchmark mitigations of text-to-image models: every image made once, judged by every evaluator, with intervals.

usage: python -m harness [-m] [--config-dir DIR] [name=value ...]

  python -m harness                                           safedir on the embedded model and benchmark
  python -m harness method=safedir model=sd14 bench=i2p       the same on Stable Diffusion 1.4 and I2P
  python -m harness -m method=none,sld_max bench=micro_i2p,micro_coco    a sweep: one plan, one pool
  python -m harness mode=plan ...                             say what would run; start nothing
  python -m harness method=[safedir,sld_medium]               methods together, left to right

  -m, --multirun      several values per setting make a sweep
  --config-dir DIR    look for your own configs there too
  --cfg               print the composed configuration and stop
  -h, --help          this text
  --version

settings: limit repeats seed training_seeds batch_size shard_size results baseline evaluators leaderboard mode=run|plan
          pool=auto|inline|ray pool.workers=N pool.threads=N pool.address=HOST:PORT
          tracker=wandb|disabled tracker.mode=offline|online|disabled
          method.<parameter> model.<parameter> bench.<parameter> evaluator.<name>.<parameter>
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 something failed, 2 a user's mistake, 130 interrupted."""
    from harness.lib.streams import prepare_streams, system_errors

    prepare_streams()
    words = sys.argv[1:] if words is None else words
    command = ["python", "-m", "harness", *words]
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
    if {"-h", "--help"} & set(words):
        print(HELP + _choices(), end="")
        return 0
    if "--version" in words:
        from harness import __version__

        print(__version__)
        return 0
    return _run(words, command)


def _choices() -> str:
    from harness.lib.paths import conf_dir

    lines = []
    for group in ("method", "model", "bench", "experiment"):
        names = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        lines.append(f"{group + ':':<12}{' '.join(names)}\n")
    return "\n" + "".join(lines)


def _run(words: Sequence[str], command: Sequence[str]) -> int:
    arguments = parse_arguments(words)
    from harness.cli.compose import compose_jobs, sweep_notes

    jobs = compose_jobs(arguments.overrides, arguments.multirun, arguments.config_dirs)
    if arguments.show_config:
        print(json.dumps([job.__dict__ for job in jobs], indent=2, default=str))
        return 0
    from harness.run import run

    return run(jobs, command, sweep_notes(words))


if __name__ == "__main__":
    sys.exit(main())
