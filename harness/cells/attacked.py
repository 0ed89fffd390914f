"""What an attack's prompts attack: joined row by row with the prompts before it, which the same method drew."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench import PromptSet
from harness.bench.ids import IdFinder
from harness.checks import check_label
from harness.errors import HarnessError, InvalidValueError
from harness.lib.atomic import write_atomic
from harness.lib.reading import read_json
from harness.lib.table_file import Table

FILE = "attacked.json"
BEFORE_SUFFIX = "_before"
# Of a bench, how images are generated: what the command line sets of it is meant for those before the attack, too.
SAMPLING = ("num_inference_steps", "guidance_scale", "guidance_floor", "guidance_cap", "size")
_MAX_NOTE = 300
_ROW_NUMBER = re.compile(r"[0-9]{5}")

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Before:
    """The cell of the prompts before an attack. `attacks` maps each attacked row's id to that of its prompt there.

    `prompts` are the ids that rates are of; `differs` says what differs in generation besides the prompt.
    """

    folder: Path
    attacks: Mapping[str, str]
    prompts: tuple[str, ...]
    differs: str = ""

    @property
    def bench(self) -> str:
        return self.folder.parent.name

    @property
    def cell_id(self) -> str:
        return self.folder.name


def same_file_bench(bench: Config) -> dict[str, Any]:
    """Return the bench of the texts in `bench.attacked_column`: same file, ids and noise, its prompts those before."""
    name = str(bench["name"])
    columns = {**(bench.get("columns") or {}), "prompt": bench["attacked_column"]}
    return {**bench, "name": f"{name}{BEFORE_SUFFIX}", "columns": columns, "attack": "unattacked",
            "seed_name": bench.get("seed_name") or name, "attacks": None, "attacked_column": None}


def attacked_prompts(attacking: PromptSet, before: PromptSet, column: str | None) -> dict[str, str]:
    """Return by id of `attacking` the id of the prompt of `before` that it attacks.

    `column` of `attacking` holds that prompt's id or text; None: ids are the same. Raises HarnessError if a row names
    none: rates over other prompts cannot be compared.
    """
    if attacking.file_sha256 == before.file_sha256 and set(attacking.cells) <= set(before.cells):
        return {row.prompt_id: row.prompt_id for row in attacking.rows}
    named = _named(attacking, column)
    finder, by_text = IdFinder(before.sources), _by_text(before)
    targets = {key: finder.find(name) or by_text.get(_plain(name)) for key, name in named.items()}
    lost = [named[key] for key, prompt in targets.items() if prompt is None]
    if lost:
        shown = ", ".join(f"'{name[:40]}'" for name in lost[:3] if _may_be_said(name))
        raise HarnessError(
            f"{len(lost)} of {len(targets)} rows of {attacking.name} attack prompts that {before.name} does not have"
            + (f": {shown}." if shown else "."),
            "Set the column with their ids or texts: bench.attacked_column=<column>.")
    return {key: prompt for key, prompt in targets.items() if prompt is not None}


def read_before(folder: Path) -> Before | None:
    """Return what a run folder says of the prompts before its attack; None if it says nothing that can be read."""
    try:
        told = read_json(folder / FILE) or {}
        bench, cell = check_label("bench", told.get("bench")), check_label("cell", told.get("cell"))
    except InvalidValueError:  # a file that cannot be read among them
        return None
    attacks, prompts, differs = told.get("attacks"), told.get("prompts"), told.get("differs")
    if not (isinstance(attacks, Mapping) and isinstance(prompts, list)):
        return None
    if not all(isinstance(one, str) for one in (*attacks.values(), *prompts)):
        return None
    return Before(folder.parents[1] / bench / cell, attacks, tuple(prompts), str(differs or "")[:_MAX_NOTE])


def write_before(folder: Path, before: Before) -> None:
    """Keep in a run folder which prompts its own attack, so that it can be judged again without their files."""
    told = {"bench": before.bench, "cell": before.cell_id, "attacks": dict(before.attacks),
            "prompts": list(before.prompts), "differs": before.differs}  # fmt: skip
    write_atomic(folder / FILE, f"{json.dumps(told, indent=1)}\n".encode())


def _named(attacking: PromptSet, column: str | None) -> dict[str, str]:
    """Return by id what each row says that it attacks."""
    cells = {row.prompt_id: attacking.cells[row.prompt_id] for row in attacking.rows}
    if column is not None:
        columns = tuple(dict.fromkeys(name for one in cells.values() for name in one))
        there = Table(f"the prompts of {attacking.name}", columns, ()).needed(column, "bench.attacked_column")
        return {key: str(one.get(there) or "") for key, one in cells.items()}
    named = {key: attacking.sources.get(key, key) for key in cells}
    if all(_ROW_NUMBER.fullmatch(name) and name not in map(str, cells[key].values()) for key, name in named.items()):
        raise HarnessError(f"the rows of {attacking.name} have no ids, so it is unknown which prompts they attack.",
                           "Set bench.columns.prompt_id=<column>, or bench.attacked_column=<column>.")
    return named


def _by_text(before: PromptSet) -> dict[str, str]:
    """Return ids by prompt, of prompts that are there once."""
    ids = defaultdict(list)
    for row in before.rows:
        ids[_plain(row.prompt)].append(row.prompt_id)
    return {text: prompt_ids[0] for text, prompt_ids in ids.items() if len(prompt_ids) == 1}


def _plain(text: str) -> str:
    return " ".join(text.split())


def _may_be_said(name: str) -> bool:
    """Return whether a name is an id: a prompt's text is nothing for a terminal."""
    return bool(name) and not any(letter.isspace() for letter in name)
