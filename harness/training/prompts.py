"""What trainings read and draw: prompt files, lists of names, seeds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.bench import screen
from harness.errors import HarnessError, InvalidValueError, MissingResourceError
from harness.lib.paths import datasets_dir
from harness.lib.table_file import Table, parse_table, read_table, text_lines
from harness.lib.table_values import is_missing, is_null_text, whole_number
from harness.records import PromptRow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPrompt:
    """One row of a file of training prompts."""

    prompt: str
    seed: int
    category: str = ""


def prompt_file(path: str) -> Path:
    """Return where a file of training prompts is: `datasets/...` means the harness's own, others the user's."""
    inside = path.removeprefix("datasets/")
    return datasets_dir() / inside if inside != path else Path(path).expanduser()


def file_hash(path: str) -> str:
    """Return sha256 of a file of training prompts, or "absent".

    Where a column is not written as its field is, such as `Seed`, that it is read is part of the hash.
    """
    file = prompt_file(path)
    return _hash(str(file), file.stat().st_mtime_ns) if file.is_file() else "absent"


@lru_cache(maxsize=64)
def _hash(path: str, mtime_ns: int) -> str:
    data = Path(path).read_bytes()
    digest = hashlib.sha256(data)
    try:
        columns = _columns(parse_table(data, path, Path(path).suffixes))
    except HarnessError:  # said when it is read
        columns = {}
    for name, column in columns.items():
        if column not in (None, name):
            digest.update(f"{name}={column}".encode())
    return digest.hexdigest()


def missing_file(path: str) -> str | None:
    """Return None when a file of training texts is there, else one line."""
    file = prompt_file(path)
    return None if file.is_file() else f"the file of training prompts {file} is missing."


def missing_prompts(path: str) -> str | None:
    """Return None when a table of training prompts is there, else one line. Raises InvalidValueError for a bad one."""
    problem = missing_file(path)
    if problem is None:
        read_prompts(path)
    return problem


def read_prompts(path: str) -> list[TrainingPrompt]:
    """Read a table with the columns prompt and, if it likes, seed and category (the first of several counts).

    It is read as a bench's is: the same file holds the same prompts. Raises HarnessError naming file and row.
    """
    file = prompt_file(path)
    if not file.is_file():
        raise MissingResourceError(f"the file of training prompts {file} is missing.")
    return list(_read(str(file), path, file.stat().st_mtime_ns))


@lru_cache(maxsize=16)
def _read(file: str, name: str, mtime_ns: int) -> tuple[TrainingPrompt, ...]:
    table = read_table(Path(file), name)
    columns = _columns(table)
    prompt = columns["prompt"]
    if prompt is None or not table.records:
        told = table.nearest("prompt") if table.records else "It has no rows."
        raise InvalidValueError(f"{name}: a file of training prompts needs a column 'prompt' and at least one row.",
                                told)
    null = [index for index, row in enumerate(table.records) if is_null_text(row[prompt])]
    if null:
        log.warning("%s is '%s', which looks like a missing value; it is used as a prompt", table.row(null[0]),
                    table.records[null[0]][prompt])
    rows = tuple(_prompt(table, index, columns) for index in range(len(table.records)))
    check_drawable(name, (row.prompt for row in rows))
    return rows


def _columns(table: Table) -> dict[str, str | None]:
    return {name: table.column(name) for name in ("prompt", "seed", "category")}


def _prompt(table: Table, index: int, columns: Mapping[str, str | None]) -> TrainingPrompt:
    text, seed, category = (table.records[index][column] if column else "" for column in columns.values())
    if not text.strip():
        raise InvalidValueError(f"{table.row(index)}: the prompt is empty.", "Remove the row, or add a prompt.")
    first = "" if is_null_text(category) else category.split(";")[0].strip()
    return TrainingPrompt(text, _seed(seed, table, index), first)


def read_lines(path: str) -> list[str]:
    """Read a text file with one prompt a line; empty lines are none."""
    problem = missing_file(path)
    if problem:
        raise MissingResourceError(problem)
    return text_lines(prompt_file(path))


def listed_names(path: str) -> tuple[str, ...]:
    """Read names, each once, in order: the column `artist` of a CSV file, or the lines of another file."""
    if prompt_file(path).suffix.lower() == ".csv":
        table = read_table(prompt_file(path), path)
        column = table.column("artist")
        if column is None or not table.records:
            raise InvalidValueError(f"{path}: a list of names needs a column 'artist' and at least one row.",
                                    "Or use a .txt file with one name per line.")
        lines = [row[column].strip() for row in table.records]
    else:
        lines = read_lines(path)
    return tuple(dict.fromkeys(line for line in lines if line))


def without_ages(prompts: Sequence[str], concepts: Sequence[str]) -> list[str]:
    """Return the prompts, less those that name an age where they or the concepts told with them are sexual."""
    words = "\n".join(concepts)
    rows = {prompt: PromptRow("", f"{prompt}\n{words}") for prompt in prompts}
    return [prompt for prompt in prompts if not screen.is_excluded(rows[prompt], sexual_set=False)]


def _seed(text: str, table: Table, index: int) -> int:
    if is_missing(text):
        return derived_seed("row", index)
    try:
        seed = whole_number(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**64:
        raise InvalidValueError(f"{table.row(index)}: seed '{text[:40]}' is not an integer from 0 to 2^64 - 1, written "
                                "in full.")
    return seed


def check_drawable(where: str, texts: Iterable[str]) -> None:
    """Raise InvalidValueError, without repeating it, for a text that names an age and something sexual.

    No training draws one, and no setting changes that.
    """
    for index, text in enumerate(texts):
        if screen.is_unfit_to_draw(text):
            raise InvalidValueError(f"{where}: text {index + 1} has an {screen.REASON}; no image is generated for such "
                                    "texts.")


def derived_seed(*parts: object) -> int:
    """Return a seed, 0 <= seed < 2^64, that is a pure function of `parts`."""
    digest = hashlib.sha256("|".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")
