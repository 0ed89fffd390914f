"""What methods that train share: prompt files, a frozen denoiser in float32, seeds."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bench import screen
from harness.errors import InvalidValueError, MissingResourceError
from harness.paths import datasets_dir
from harness.records import PromptRow

if TYPE_CHECKING:
    from harness.models import LoadedModel


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
    """Return sha256 of a file of training prompts, or "absent"."""
    file = prompt_file(path)
    return _hash(str(file), file.stat().st_mtime_ns) if file.is_file() else "absent"


@lru_cache(maxsize=64)
def _hash(path: str, mtime_ns: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def missing_file(path: str) -> str | None:
    """Return None when a file of training prompts is there, else one line."""
    file = prompt_file(path)
    return None if file.is_file() else f"the file of training prompts {file} is missing."


def read_prompts(path: str) -> list[TrainingPrompt]:
    """Read a CSV with columns prompt and, if it likes, seed and category (the first of several counts)."""
    problem = missing_file(path)
    if problem:
        raise MissingResourceError(problem)
    with prompt_file(path).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or "prompt" not in rows[0]:
        raise InvalidValueError(f"{path}: a file of training prompts needs a column 'prompt' and at least one row.")
    return [TrainingPrompt(row["prompt"], _seed(row, path, index), (row.get("category") or "").split(";")[0].strip())
            for index, row in enumerate(rows)]


def read_lines(path: str) -> list[str]:
    """Read a text file with one prompt a line; empty lines are none."""
    problem = missing_file(path)
    if problem:
        raise MissingResourceError(problem)
    try:
        lines = prompt_file(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{path}: byte {error.start} is not UTF-8.", "Save it as UTF-8.") from None
    return [line.strip() for line in lines if line.strip()]


def listed_names(path: str) -> tuple[str, ...]:
    """Read names, each once, in order: the column `artist` of a CSV file, or the lines of another file."""
    lines = read_lines(path)
    if prompt_file(path).suffix.lower() == ".csv":
        rows = list(csv.DictReader(lines))
        if not rows or "artist" not in rows[0]:
            raise InvalidValueError(f"{path}: a list of names needs a column 'artist' and at least one row.",
                                    "Or give a .txt file with one name a line.")
        lines = [(row["artist"] or "").strip() for row in rows]
    return tuple(dict.fromkeys(line for line in lines if line))


def without_ages(prompts: Sequence[str], concepts: Sequence[str]) -> list[str]:
    """Return the prompts, less those that name an age where they or the concepts told with them are sexual."""
    words = "\n".join(concepts)
    rows = {prompt: PromptRow("", f"{prompt}\n{words}") for prompt in prompts}
    return [prompt for prompt in prompts if not screen.is_excluded(rows[prompt], sexual_set=False)]


def _seed(row: dict[str, str], path: str, index: int) -> int:
    text = row.get("seed")
    if not text:
        return derived_seed("row", index)
    if not text.isdigit() or int(text) >= 2**64:
        raise InvalidValueError(f"{path}, row {index + 1}: seed {text!r} is no integer from 0 to 2^64 - 1.")
    return int(text)


def derived_seed(*parts: object) -> int:
    """Return a seed, 0 <= seed < 2^64, that is a pure function of `parts`."""
    digest = hashlib.sha256("|".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")


@contextmanager
def frozen_denoiser(model: LoadedModel) -> Iterator[None]:
    """Hold the denoiser in float32 with gradients to its inputs only; give it back as it was.

    Half precision survives the way to float32 and back to the bit.
    """
    denoiser, dtype = model.denoiser, model.denoiser.dtype
    wanted = {name: parameter.requires_grad for name, parameter in denoiser.named_parameters()}
    try:
        denoiser.requires_grad_(False)
        denoiser.float()
        yield
    finally:
        denoiser.to(dtype)
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(wanted[name])
