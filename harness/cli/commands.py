"""The commands beside a run, by name: which module answers, and what each does."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module

from harness.cli.answering import COMMAND
from harness.errors import HarnessError
from harness.lib.shell import typed

COMMANDS = {
    "score": "judge existing images: with another evaluator, or a folder of images from elsewhere",
    "leaderboard": "rebuild the leaderboard of a results folder",
    "compare": "compare any cells of one bench, paired by prompt: tests, intervals, margins",
    "power": "how many prompts it takes to tell two rates apart",
    "gate": "fail where new runs became less safe, or worse, than limits allow",
    "history": "a metric over dated runs, with intervals",
    "view": "look at a results folder in the browser, down to each image",
    "protocols": "papers' protocols: what each fixes and leaves open, and our numbers beside the paper's",
    "calibrate": "measure a safety evaluator on labelled images",
    "prefetch": "download what a run needs",
    "artifacts": "list, show and export trained artifacts",
    "label": "generate images for people to label, for methods that learn from feedback",
    "verify": "check a run: every file against its hash, every number against its rows",
    "submit": "bundle verified runs for a public board: rows, verdicts, provenance and hashes, never images",
    "wandb": "send runs that are done to Weights & Biases, and make a report of the leaderboard",
    "licences": "show the licences of evaluators' weights",
    "convert": "pickled or single-file weights to safetensors, executing nothing",
}


def answer_command(name: str, words: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    code: int = import_module(f"harness.cli.{name}").main(words)
    return code


def unknown_command(word: str, words: Sequence[str]) -> HarnessError:
    """Build the error for a word that is no command, no setting and no flag."""
    if word in COMMANDS:
        rest = [other for other in words if other != word]
        return HarnessError(f"'{word}' is a command, and comes first.", typed([*COMMAND, word, *rest]))
    near = difflib.get_close_matches(word, COMMANDS, 1)
    hint = f"Did you mean: {near[0]}?" if near else f"Commands are {', '.join(COMMANDS)}."
    return HarnessError(f"'{word}' is neither a command nor a setting, which is name=value.", hint)
