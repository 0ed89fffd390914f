"""Cells as people name them: by folder, by the beginning of an id, or by words such as `method=none bench=i2p`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cells.comparable import mapping
from harness.checks import user_path
from harness.comparisons.sides import labels, settings
from harness.errors import InvalidValueError, MissingResourceError, unknown_name
from harness.report.run import Run
from harness.report.runs import load_run
from harness.report.variants import method_parameters

PLACES = ("model", "method", "bench")
KEYS = (*PLACES, "seed", "limit", "repeats")
ID_LENGTH = 4  # letters of an id from which it names a cell
SHOWN = 6

Words = Mapping[str, str]


@dataclass(frozen=True)
class Named:
    """What names one cell: `text` as it was given, and its folders, the only one or those to choose among."""

    text: str
    folders: tuple[Path, ...]


def find_cells(texts: Sequence[str | Path], words: Mapping[str, Sequence[str]], results: Path) -> list[Path]:
    """Return the folders of the cells that are named by `texts`, then of those by all combinations of `words`.

    Each name must fit one cell. What fits several is narrowed to the bench and model of those that fit one, and to
    their seed; then words mean what they mean to a run: a method as it is shipped, seed 0. With texts, `words` say what
    their own words leave open, and name further cells where they leave nothing open. Raises HarnessError.
    """
    given_texts = [str(text) for text in texts]
    described = [_described(text, words) for text in given_texts]
    by_words = [] if _are_defaults(words, given_texts) else _combinations(words)
    named = [_named(text, given, results) for text, given in zip(given_texts, described, strict=True)]
    named += [_named(_told(given), given, results) for given in by_words]
    sure = [one.folders[0] for one in named if len(one.folders) == 1]
    if not sure:
        shipped = [_as_shipped(one.folders, one.text) for one in named]
        sure = [folders[0] for folders in shipped if len(folders) == 1][:1]
        named = [Named(one.text, tuple(sure)) if sure and sure == folders else one
                 for one, folders in zip(named, shipped, strict=True)]  # fmt: skip
    return [_only(one, sure) for one in named]


def cells_of(results: Path) -> list[Path]:
    """Return the folders of all cells of a results folder."""
    return [path for path in sorted(results.glob("runs/*/*/*/*")) if path.is_dir()]


def _described(text: str, words: Mapping[str, Sequence[str]]) -> Words:
    """Return the words of a text such as `method=none bench=i2p`; empty where it is a folder or an id."""
    if "=" not in text or Path(text).exists():
        return {}
    pairs = [word.partition("=") for word in text.split()]
    for key, equals, _ in pairs:
        if not equals or not (key in KEYS or key.startswith("method.")):
            raise unknown_name("word of a cell", key, [*KEYS, "method.<setting>"])
    return {key: values[0] for key, values in words.items() if len(values) == 1} | {k: v for k, _, v in pairs}


def _are_defaults(words: Mapping[str, Sequence[str]], texts: Sequence[str]) -> bool:
    """Return whether words only complete those of the texts: single values of what not all of them say."""
    own = [dict(word.split("=", 1) for word in text.split()) for text in texts if _described(text, {})]
    named = [key for key, values in words.items() if len(values) > 1 or all(key in one for one in own)]
    return bool(own) and not named


def _combinations(words: Mapping[str, Sequence[str]]) -> list[Words]:
    if not words:
        return []
    return [dict(zip(words, values, strict=True)) for values in itertools.product(*words.values())]


def _told(words: Words) -> str:
    return " ".join(f"{key}={value}" for key, value in words.items())


def _named(text: str, words: Words, results: Path) -> Named:
    return Named(text, tuple(_by_words(words, results) if words else [_by_folder_or_id(text, results)]))


def _by_folder_or_id(text: str, results: Path) -> Path:
    folder = user_path("cell", text)
    if (folder / "summary.json").exists() or (folder / "rows").is_dir():
        return folder
    if "/" in text or folder.is_dir():
        raise MissingResourceError(f"{text} is not the folder of a cell.",
                                   "Use one such as results/runs/<model>/<method>/<bench>/<cell id>.")
    cells = _listed(results)
    found = [cell for cell in cells if len(text) >= ID_LENGTH and cell.name.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidValueError(f"{text} begins the ids of {len(found)} cells.", f"Which one: {_choices(found)}?")
    if any(cell.parts[-3] == text for cell in cells):
        raise InvalidValueError(f"'{text}' is a method.", f"Write method={text}, or the beginning of a cell's id.")
    raise unknown_name("cell", text, [cell.name for cell in cells])


def _listed(results: Path) -> list[Path]:
    if not results.is_dir():
        raise MissingResourceError(f"results folder '{results}' does not exist.", "Name it: results=FOLDER.")
    cells = cells_of(results)
    if not cells:
        raise MissingResourceError(f"no runs in '{results}'.", "Name the folder that has some: results=FOLDER.")
    return cells


def _by_words(words: Words, results: Path) -> list[Path]:
    """Return the cells that the words fit. Raises HarnessError where there is none, naming what there is."""
    cells = _listed(results)
    for place, key in zip((-4, -3, -2), PLACES, strict=True):
        if key in words:
            there = {cell.parts[place] for cell in cells}
            if words[key] not in there:
                raise unknown_name(key, words[key], there)
            cells = [cell for cell in cells if cell.parts[place] == words[key]]
    others = {key: value for key, value in words.items() if key not in PLACES}
    fitting = [cell for cell in cells if all(_fits(load_run(cell), key, value) for key, value in others.items())]
    if not fitting:
        raise MissingResourceError(f"no cell has {_told(words)}.",
                                   f"There is {_choices(cells)}." if cells else "Leave a word out.")
    return fitting


def _fits(run: Run, key: str, text: str) -> bool:
    if key.startswith("method."):
        name = key.removeprefix("method.")
        return any(_same(value, text) for known, value in _parameters(run).items() if known.split(".", 1)[-1] == name
                   or known == name)
    return _same(settings(run).get(key), text)


def _parameters(run: Run) -> Mapping[str, Any]:
    return {**method_parameters(run), **mapping(settings(run).get("method_overrides"))}


def _same(value: object, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value).lower() == text.lower() or (value is None and text == "null")


def _only(named: Named, sure: Sequence[Path]) -> Path:
    """Return the one cell that is meant: of several, that on the model and bench, then of the seed, of the sure ones.

    None of the sure ones: nobody compares a cell with itself.
    """
    folders = list(named.folders)
    if sure and len(folders) > 1:
        first = sure[0]
        folders = [one for one in folders if one.parts[-4] == first.parts[-4] and one.parts[-2] == first.parts[-2]
                   and one not in sure]
        if len(folders) > 1:
            seed = settings(load_run(first)).get("seed")
            folders = [one for one in folders if settings(load_run(one)).get("seed") == seed] or folders
    if len(folders) > 1:
        folders = _as_shipped(folders, named.text)
    if len(folders) == 1:
        return folders[0]
    given = named.text or "the words"
    raise InvalidValueError(f"{given} fits {len(named.folders)} cells.",
                            f"Which one: {_choices(folders or named.folders)}?")


def _as_shipped(folders: Sequence[Path], text: str) -> list[Path]:
    """Return the cells that the words would make if they were run: no setting changed, seed 0."""
    runs = [load_run(folder) for folder in folders]
    if "method." not in text:
        runs = [run for run in runs if not settings(run).get("method_overrides")] or runs
    if "seed=" not in text:
        runs = [run for run in runs if not settings(run).get("seed")] or runs
    return [run.folder for run in runs if run.folder]


def _choices(folders: Sequence[Path]) -> str:
    runs = [load_run(folder) for folder in folders[:SHOWN]]
    texts = [f"{run.cell_id} ({label} on {run.bench})" for run, label in zip(runs, labels(runs), strict=True)]
    more = f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else ""
    return ", ".join(texts) + more
