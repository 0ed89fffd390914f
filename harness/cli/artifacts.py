"""List, show and export trained artifacts: the command behind `python -m harness.artifacts`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from harness.checks import user_path
from harness.cli.answering import answer
from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.formatting import duration, size
from harness.lib.reading import parse_yaml
from harness.lib.streams import PlainConsole, cell_text, prepare_streams
from harness.lib.tensor_headers import header_of, shown
from harness.lib.trusted_targets import targets_of
from harness.sampling.artifact_content import CONTENT_DIGITS
from harness.training.artifact_files import META, TENSORS, looked_at, read_meta, read_tensors, tells_all
from harness.training.artifacts import StoredArtifact


def artifacts_below(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield folder and meta data of every whole artifact below `root`, by method and age."""
    found = [(path.parent, read_meta(path.parent)) for path in root.glob(f"**/{META}")]
    whole = [(folder, meta) for folder, meta in found if meta is not None and tells_all(meta)]
    yield from sorted(whole, key=lambda one: (str(one[1]["recipe"]["kind"]), (one[0] / META).stat().st_mtime))


def find(root: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Return the artifact whose key begins with `name`, or that is in folder `name`. Raises MissingResourceError."""
    direct, problem = looked_at(user_path("artifact", name))
    if problem:
        raise MissingResourceError(f"{name} holds no whole artifact: {problem}.",
                                   "python -m harness.artifacts list shows those that are.")
    if direct is not None and tells_all(direct):
        return Path(name), direct
    found = [(folder, meta) for folder, meta in artifacts_below(root) if str(meta["key"]).startswith(name)]
    if len(found) != 1:
        count = "no artifact" if not found else f"{len(found)} artifacts"
        raise MissingResourceError(f"{count} below {root} have a key that begins with {name!r}.",
                                   "python -m harness.artifacts list shows them.")
    return found[0]


def show_all(root: Path, console: Console) -> None:
    """Print one line an artifact."""
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
    console.print(str(folder), markup=False, soft_wrap=True)
    console.print_json(json.dumps(told, ensure_ascii=False))
    for name, entry in header_of(folder / TENSORS, f"the artifact {folder / TENSORS}").tensors.items():
        console.print(f"  {shown(name)}: {entry.dtype} {entry.shape}", markup=False, highlight=False)


def export_one(folder: Path, meta: dict[str, Any], given: argparse.Namespace, console: Console) -> None:
    """Write an artifact as others read it, and print the files."""
    from harness.cli.export import base_loader, export_artifact, write_export

    settings, words = method_settings(given.words)
    told = {**meta, "settings": {**(meta.get("settings") or {}), **settings}} if settings else meta
    artifact = StoredArtifact(str(meta["key"]), read_tensors(folder), told)
    trusted = targets_of(given.config_dir)
    export = export_artifact(artifact, base_loader(artifact, words, given.config_dir), trusted)
    for file in write_export(export, artifact, given.folder):
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)


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
            raise InvalidValueError(f"{word}: {value!r} is no value.") from None
    return settings, rest


def _short(value: Any) -> Any:
    """Keep the ends of long lists, such as losses."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list) and len(value) > 6:
        return [*value[:3], f"... {len(value) - 6} more ...", *value[-3:]]
    return value


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.artifacts", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("results/artifacts"), help="folder of artifacts")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="one line an artifact")
    show = commands.add_parser("show", help="recipe, base, losses and tensors")
    show.add_argument("artifact", help="a folder, or the beginning of a key")
    export = commands.add_parser("export", help="as safetensors that diffusers or the authors' code reads")
    export.add_argument("artifact", help="a folder, or the beginning of a key")
    export.add_argument("folder", type=Path, help="a new folder for the files")
    export.add_argument("words", nargs="*", help="the model that it was made for, if it is not found: model=...; and "
                        "how it is applied, if not as when it was first used: method.strength=0.5")
    export.add_argument("--config-dir", action="append", default=[], help="look for model configs there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 a user's mistake."""
    prepare_streams()
    words = sys.argv[1:] if argv is None else argv
    return answer(["python", "-m", "harness.artifacts", *words], lambda: run(words),
                  "stopped; files that are there are whole. To begin again:")


def run(argv: Sequence[str]) -> None:
    """Run the command line. Raises HarnessError."""
    given, console = arguments(argv), PlainConsole()
    given.root = user_path("--root", str(given.root))
    if given.command == "list":
        show_all(given.root, console)
    elif given.command == "show":
        show_one(*find(given.root, given.artifact), console)
    else:
        export_one(*find(given.root, given.artifact), given, console)


if __name__ == "__main__":
    sys.exit(main())
