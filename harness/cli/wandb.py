"""`python -m harness wandb push RESULTS`: runs that are done, sent to Weights & Biases."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from harness.cells.tracker import TrackerSettings
from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, Given, called, parse_arguments, read_given
from harness.errors import HarnessError, InvalidValueError, unknown_name
from harness.lib.streams import say, terminal

SETTINGS = ("mode", "project", "entity", "group", "tags", "images", "upload_images", "weights_mb", "report")
SWITCHES = ("upload_images", "report")
ACTIONS = ("push",)
HELP = """\
Send runs that are done to Weights & Biases: old ones, rescored ones, those merged from other folders.

usage: python -m harness wandb push [RESULTS] [name=value ...] [--report]

  python -m harness wandb push                     of results/
  python -m harness wandb push results --report    and a report of the leaderboard

Sending again updates the runs. Pictures are blurred where the bench or a verdict is unsafe.

  mode=online           online, or offline: files to upload later (default: WANDB_MODE, else online with a key)
  project=NAME          (default: WANDB_PROJECT, else responsible-t2i-harness)
  entity=NAME           your account or team (default: WANDB_ENTITY, else your account's own)
  group=NAME            joins the runs (default: WANDB_RUN_GROUP, else push)
  tags=A,B              (default: WANDB_TAGS)
  images=N              pictures in the images table of a cell (default: 32)
  upload_images=true    do not blur them
  weights_mb=N          trained weights up to this size are uploaded (default: 100)
  --report              make or update the report: needs wandb-workspaces and mode=online
  -h, --help            this text
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 sent, 1 something could not be sent, 2 a mistake."""
    return answer_words("wandb", words, HELP, _run, "stopped; what was sent stays. To send again:")


def _run(words: Sequence[str]) -> int:
    arguments = parse_arguments(words, "wandb", OF_COMMANDS, SETTINGS, SWITCHES)
    given = read_given(arguments, SETTINGS, things="what to do, and a results folder")
    results, settings = _results(given), _settings(given)
    asks_report = _flag(given, "report")
    if asks_report and settings.mode != "online":
        raise InvalidValueError("--report needs the server of W&B, and this would be offline.",
                                "Log in with `wandb login`, or set WANDB_API_KEY.")
    return _push(results, settings, asks_report)


def _push(results: Path, settings: TrackerSettings, asks_report: bool) -> int:
    from harness.report.tracking import WandbTracker
    from harness.report.tracking_push import push

    console = terminal()
    with closing(WandbTracker(settings, "push", results, partial(say, console))) as tracker:
        count, without = push(results, tracker)
    say(console, f"{count} cells of {results}")
    for run in without:
        say(console, f"not sent: {run.folder}: {'; '.join(run.problems)}")
    if tracker.problem:
        sys.stderr.write(f"error: {tracker.problem}\n")
        return 1
    if asks_report:
        say(console, f"report: {_report(results, *tracker.account)}")
    return 1 if without else 0


def _report(results: Path, entity: str, project: str) -> str:
    from harness.report.tracking_report import save_report

    try:
        return save_report(results, entity, project)
    except HarnessError:
        raise
    except Exception as error:  # of W&B's server or its client: the runs are there
        raise HarnessError(f"the runs were sent, but not the report: {type(error).__name__}: {error}") from error


def _results(given: Given) -> Path:
    action, *things = given.things or ("",)
    if action not in ACTIONS:
        raise unknown_name("action", action, ACTIONS)
    if len(things) > 1:
        raise InvalidValueError(f"{len(things)} results folders given: {', '.join(things)}.",
                                f"{called('wandb')} push RESULTS")
    return user_path("results", things[0] if things else "results")


def _settings(given: Given) -> TrackerSettings:
    """Return what is asked for, on top of W&B's own variables. Raises HarnessError."""
    settings = TrackerSettings.from_config({
        "mode": given.text("mode"), "project": given.text("project"), "entity": given.text("entity"),
        "group": given.text("group"), "tags": tuple(given.names("tags")) or None,
        "images": _count(given, "images", 32), "upload_images": _flag(given, "upload_images"),
        "weights_mb": _count(given, "weights_mb", 100),
    })  # fmt: skip
    if settings.mode == "disabled":
        raise HarnessError("W&B is switched off by WANDB_MODE=disabled or mode=disabled.", "Set mode=online.")
    return settings


def _count(given: Given, name: str, default: int) -> int:
    text = given.text(name, str(default)) or ""
    if not text.isdecimal():
        raise InvalidValueError(f"{name}={text}: an integer of at least 0 is needed.")
    return int(text)


def _flag(given: Given, name: str) -> bool:
    text = given.text(name, "false")
    if text not in ("true", "false"):
        raise InvalidValueError(f"{name}={text}: true or false is needed.")
    return text == "true"


if __name__ == "__main__":
    sys.exit(main())
