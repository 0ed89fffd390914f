"""What methods that train share: prompt files, a frozen denoiser in float32, seeds."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bench import screen
from harness.errors import InvalidValueError, MissingResourceError
from harness.paths import datasets_dir

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
    check_drawable(path, (row["prompt"] or "" for row in rows))
    return [TrainingPrompt(row["prompt"], _seed(row, path, index), (row.get("category") or "").split(";")[0].strip())
            for index, row in enumerate(rows)]


def _seed(row: dict[str, str], path: str, index: int) -> int:
    text = row.get("seed")
    if not text:
        return derived_seed("row", index)
    if not text.isdigit() or int(text) >= 2**64:
        raise InvalidValueError(f"{path}, row {index + 1}: seed {text!r} is no integer from 0 to 2^64 - 1.")
    return int(text)


def check_drawable(where: str, texts: Iterable[str]) -> None:
    """Raise InvalidValueError, without repeating it, for a text that names an age and something sexual.

    No training draws one, and no setting changes that.
    """
    for index, text in enumerate(texts):
        if screen.is_unfit_to_draw(text):
            raise InvalidValueError(f"{where}: text {index + 1} has an {screen.REASON}, which no training draws.")


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
