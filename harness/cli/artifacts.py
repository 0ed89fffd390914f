"""`python -m harness artifacts list|show|export`: what methods trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, Given, called, parse_arguments, read_given
from harness.errors import InvalidValueError, MissingResourceError, unknown_name
from harness.lib.formatting import duration, size
from harness.lib.reading import parse_yaml
from harness.lib.streams import cell_text, terminal
from harness.lib.tensor_headers import header_of, shown
from harness.lib.trusted_targets import targets_of
from harness.sampling.artifact_content import CONTENT_DIGITS
from harness.training.artifact_files import META, TENSORS, looked_at, read_meta, read_tensors, tells_all
from harness.training.artifacts import StoredArtifact

SETTINGS = ("root",)
PASSED_ON = ("model", "model.", "method.")
ACTIONS = {"list": "", "show": "ARTIFACT", "export": "ARTIFACT FOLDER"}  # each with what it needs
HELP = """\
List, show and export what methods trained.

usage: python -m harness artifacts list                      one line per artifact
       python -m harness artifacts show ARTIFACT             recipe, base, losses and tensors
       python -m harness artifacts export ARTIFACT FOLDER    as safetensors that diffusers or the authors' code reads
                                          [model=NAME] [method.setting=value ...] [--config-dir DIR]

  ARTIFACT            a folder, or the beginning of a key
  root=DIR            folder of artifacts (default: results/artifacts)
  model=NAME          export: the model that it was trained on, if not found automatically
  method.strength=X   export: how strongly it is applied, if not as first used
  --config-dir DIR    look for your own configs there too; may be repeated
  -h, --help          this text
"""


def artifacts_below(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield folder and meta data of every whole artifact below `root`, by method and age."""
    folders = [(path.parent, read_meta(path.parent)) for path in root.glob(f"**/{META}")]
    whole = [(folder, meta) for folder, meta in folders if meta is not None and tells_all(meta)]
    yield from sorted(whole, key=lambda one: (str(one[1]["recipe"]["kind"]), (one[0] / META).stat().st_mtime))


def find(root: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Return the artifact whose key begins with `name`, or that is in folder `name`. Raises MissingResourceError."""
    direct, problem = looked_at(user_path("artifact", name))
    if problem:
        raise MissingResourceError(f"{name} has no complete artifact: {problem}.",
                                   "python -m harness artifacts list shows the complete ones.")
    if direct is not None and tells_all(direct):
        return Path(name), direct
    matches = [(folder, meta) for folder, meta in artifacts_below(root) if str(meta["key"]).startswith(name)]
    if len(matches) != 1:
        count = "no artifact" if not matches else f"{len(matches)} artifacts"
        raise MissingResourceError(f"{count} below {root} have a key starting with {name!r}.",
                                   "python -m harness artifacts list shows them.")
    return matches[0]


def show_all(root: Path, console: Console) -> None:
    """Print one line per artifact."""
    key = Column("key", no_wrap=True, min_width=16)  # what the other commands take
    table = Table("method", key, "content", "base weights", "trained in", "size", "upstream")
    count = 0
    for folder, meta in artifacts_below(root):
        count += 1
        content, base = str(meta["sha256"])[:CONTENT_DIGITS], meta["base"]["weights"][:12]
        shown = (meta["method"], meta["key"], content, base, duration(meta.get("seconds")),
                 size((folder / TENSORS).stat().st_size), "+".join(meta["upstream"]) or "-")
        table.add_row(*map(cell_text, shown))
    console.print(table if count else f"no artifacts in {root}")


def show_one(folder: Path, meta: dict[str, Any], console: Console) -> None:
    """Print what is known of an artifact: its recipe, its base, and its tensors."""
    told = {**meta, "training": {key: _short(value) for key, value in meta["training"].items()}}
    console.print(str(folder))
    console.print_json(json.dumps(told, ensure_ascii=False))
    for name, entry in header_of(folder / TENSORS, f"the artifact {folder / TENSORS}").tensors.items():
        console.print(f"  {shown(name)}: {entry.dtype} {entry.shape}")


def export_one(folder: Path, meta: dict[str, Any], target: Path, given: Given, console: Console) -> None:
    """Write an artifact as others read it, and print the files."""
    from harness.cli.export import base_loader, export_artifact, write_export

    settings, words = method_settings(given.passed_on)
    told = {**meta, "settings": {**(meta.get("settings") or {}), **settings}} if settings else meta
    artifact = StoredArtifact(str(meta["key"]), read_tensors(folder), told)
    trusted = targets_of(given.config_dirs)
    export = export_artifact(artifact, base_loader(artifact, words, given.config_dirs), trusted)
    for file in write_export(export, artifact, target):
        console.print(str(file))


def method_settings(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split `method.<setting>=<value>` words, read as YAML, from the others."""
    settings: dict[str, Any] = {}
    rest = []
    for word in words:
        key, _, value = word.partition("=")
        if not key.startswith("method."):
            rest.append(word)
            continue
        try:
            settings[key.removeprefix("method.")] = parse_yaml(value)
        except ValueError:
            raise InvalidValueError(f"{word}: {value!r} is not a valid value.") from None
    return settings, rest


def _short(value: Any) -> Any:
    """Keep the ends of long lists, such as losses."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list) and len(value) > 6:
        return [*value[:3], f"... {len(value) - 6} more ...", *value[-3:]]
    return value


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 a user's mistake."""
    return answer_words("artifacts", words, HELP, run,
                        "stopped; files already written are complete. To run again:")


def run(words: Sequence[str]) -> None:
    """Run the command line. Raises HarnessError."""
    arguments = parse_arguments(words, "artifacts", OF_COMMANDS, SETTINGS)
    given = read_given(arguments, SETTINGS, PASSED_ON, things="what to do, and with which artifact")
    action, *things = _action(given)
    root = user_path("root", given.text("root", "results/artifacts") or "")
    console = terminal()
    if action == "list":
        show_all(root, console)
    elif action == "show":
        show_one(*find(root, things[0]), console)
    else:
        export_one(*find(root, things[0]), user_path("folder", things[1]), given, console)


def _action(given: Given) -> Sequence[str]:
    """Return what to do and with what. Raises HarnessError if that is not one of ACTIONS, or incomplete."""
    action, *things = given.things or ("",)
    if action not in ACTIONS:
        raise unknown_name("action", action, ACTIONS)
    if len(things) != len(ACTIONS[action].split()):
        raise InvalidValueError(f"artifacts {action} needs {ACTIONS[action] or 'no more words'}.",
                                f"{called('artifacts')} {action} {ACTIONS[action]}".rstrip())
    if given.passed_on and action != "export":
        raise InvalidValueError(f"{given.passed_on[0]}: only artifacts export takes settings of models and methods.")
    return given.things


if __name__ == "__main__":
    sys.exit(main())
