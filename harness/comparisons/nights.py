"""The cells of two results folders, partner by partner: the same model, method and benchmark, and settings alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cells.comparable import mapping
from harness.comparisons.finding import cells_of, find_cells
from harness.comparisons.sides import settings
from harness.errors import InvalidValueError, MissingResourceError, unknown_name
from harness.lib.hashing import canonical_json
from harness.report.run import Run
from harness.report.runs import load_run
from harness.report.variants import method_parameters, row_labels, variants


@dataclass(frozen=True)
class Partners:
    """One cell of the base with its partner; `new` is None where there is none. `name` is the same on any day."""

    name: str
    base: Run
    new: Run | None


@dataclass(frozen=True)
class Nights:
    """All cells of the base with their partners, and the names of new cells that the base does not have."""

    partners: tuple[Partners, ...]
    extra: tuple[str, ...]


Selection = Mapping[str, Sequence[str]]  # names of models, methods and benches; empty for all


def nights(base: str, new: str, selection: Selection, results: Path) -> Nights:
    """Match two results folders, or take two cells. Raises HarnessError where there is nothing to compare."""
    folders = [Path(text) for text in (base, new)]
    if all(_holds_runs(folder) for folder in folders):
        return match_runs(*(_selected(folder, selection) for folder in folders))
    if any(_holds_runs(folder) for folder in folders):
        raise InvalidValueError(f"{base} and {new} are a results folder and a cell.", "Give two of a kind.")
    missing = [text for text, folder in zip((base, new), folders, strict=True) if "/" in text and not folder.exists()]
    if missing:
        raise MissingResourceError(f"{missing[0]} does not exist.", "Give two results folders, or two cells.")
    first, second = (load_run(folder.resolve()) for folder in find_cells([base, new], {}, results))
    return Nights((Partners(f"{_place(first)} \N{RIGHTWARDS ARROW} {_place(second)}", first, second),), ())


def _holds_runs(folder: Path) -> bool:
    return (folder / "runs").is_dir()


def _selected(results: Path, selection: Selection) -> list[Run]:
    runs = [load_run(folder.resolve()) for folder in cells_of(results)]
    for kind, names in selection.items():
        for name in names:
            if name not in (there := {str(getattr(run, kind)) for run in runs}):
                raise unknown_name(kind, name, there)
        runs = [run for run in runs if not names or getattr(run, kind) in names]
    if not runs:
        raise MissingResourceError(f"no runs in '{results}' to compare.", "Name another folder.")
    return runs


def match_runs(base: Sequence[Run], new: Sequence[Run]) -> Nights:
    """Find each base cell's partner on its model, method and bench: the same cell, else of the same settings.

    Where each side has a single cell there, the two are partners, whatever their settings.
    """
    named = _names(base, new)
    there: dict[str, list[Run]] = defaultdict(list)
    for run in new:
        there[_place(run)].append(run)
    counts = Counter(map(_place, base))
    partners: list[Partners] = []
    taken: set[str] = set()
    for run in base:
        candidates = [one for one in there[_place(run)] if str(one.folder) not in taken]
        only = counts[_place(run)] == len(there[_place(run)]) == 1
        partner = candidates[0] if only and candidates else _partner(run, candidates)
        if partner is not None:
            taken.add(str(partner.folder))
        partners.append(Partners(named[str(run.folder)], run, partner))
    extra = [named[str(run.folder)] for run in new if str(run.folder) not in taken]
    return Nights(tuple(partners), tuple(extra))


def _partner(run: Run, candidates: Sequence[Run]) -> Run | None:
    same = [one for one in candidates if one.cell_id == run.cell_id]
    alike = [one for one in candidates if _settings(one) == _settings(run)]
    return next(iter([*same, *alike]), None)


def _settings(run: Run) -> str:
    """Return what tells the cells of one place apart, whatever the day."""
    told = {key: value for key, value in settings(run).items() if key not in ("limit", "batch_size", "repeats")}
    return canonical_json([told, method_parameters(run), mapping(run.summary.get("prompts")).get("file_sha256")],
                          other=str)


def _place(run: Run) -> str:
    return f"{run.model}/{run.method}/{run.bench}"


def _names(*sides: Sequence[Run]) -> dict[str, str]:
    """Name each cell by its place and what tells it from others of its own folder."""
    return {folder: name for runs in sides for folder, name in _named(runs)}


def _named(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    labels = row_labels(runs, variants(runs))
    for run in runs:
        yield str(run.folder), f"{run.model}/{labels[run.cell_id]}/{run.bench}"
