"""The text of `python -m harness --help`: what there is to run, including your own configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.checks import with_variables
from harness.cli.answering import HELP_FLAGS
from harness.cli.arguments import INFO, parse_arguments
from harness.cli.commands import COMMANDS
from harness.errors import HarnessError
from harness.lib.paths import conf_dir
from harness.lib.streams import columns

HELP = """\
Benchmark mitigations of text-to-image models: every image generated once, scored by every evaluator, with intervals.

usage: python -m harness [-m] [--config-dir DIR] [name=value ...]
       python -m harness COMMAND ...            details: python -m harness COMMAND --help

  python -m harness                                           safedir on the embedded model and benchmark
  python -m harness method=safedir model=sd14 bench=i2p       the same on Stable Diffusion 1.4 and I2P
  python -m harness -m method=none,sld_max bench=micro_i2p,micro_coco    a sweep: one plan, one pool
  python -m harness mode=plan ...                             dry run: show what would run
  python -m harness method=[safedir,sld_medium]               methods combined, left to right

commands:
{commands}
flags, as in every Hydra command:
  -m, --multirun             several values per setting make a sweep
  -cd, --config-dir DIR      look for your own configs there, too; may be repeated
  -cn, --config-name NAME    start from this config instead of config.yaml
  -c, --cfg job|hydra|all    print the composed config as YAML and exit; -p PACKAGE: only this part;
                             --resolve: resolve interpolations
  -i, --info [WHAT]          how it is composed: {info}
  -sc, --shell-completion install=bash|zsh|fish
  -h, --help                 this text
  --version

settings: limit repeats seed training_seeds batch_size shard_size results baseline evaluators leaderboard mode=run|plan
          pool=auto|inline|ray pool.workers=N pool.threads=N pool.address=HOST:PORT
          tracker=wandb|disabled tracker.mode=offline|online|disabled
          method.<parameter> model.<parameter> bench.<parameter> evaluator.<name>.<parameter>
          protocol=<name> protocol.<choice> protocol.strict=false protocol.twin=true
          +name=value adds, ++name=value adds or changes, ~name removes, name=null clears

"""
GROUPS = ("method", "model", "bench", "evaluator", "experiment", "protocol")


def help_text(words: Sequence[str]) -> str:
    """Return the help; names of configs are those that ship and those in the folders that --config-dir names."""
    from textwrap import fill

    commands = "".join(f"  {name:<13}{said}\n" for name, said in COMMANDS.items())
    lists = [fill(f"{f'{group}:':<12}{' '.join(_names(group, _folders(words)))}", columns(), subsequent_indent=" " * 12,
                  break_on_hyphens=False) for group in GROUPS]
    return f"{HELP.format(commands=commands, info=', '.join(INFO))}{chr(10).join(lists)}\n"


def _folders(words: Sequence[str]) -> list[Path]:
    try:
        dirs = parse_arguments([word for word in words if word not in HELP_FLAGS]).config_dirs
    except HarnessError:  # help is given to whoever asks for it
        dirs = ()
    return [conf_dir(), *(Path(with_variables(folder)) for folder in dirs)]


def _names(group: str, folders: Sequence[Path]) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
