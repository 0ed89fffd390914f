"""Check a run: every file against its hash, every number against its rows, and that they tell of one cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.cells.comparable import by_baseline, mapping
from harness.cells.provenance import made_on
from harness.cells.store import CellStore
from harness.comparisons.sides import Side, load_sides
from harness.errors import HarnessError
from harness.lib.hashing import canonical_hash
from harness.metrics.summary import STATISTICS
from harness.records import ImageRow, Status
from harness.report.runs import load_run
from harness.verification.decisions import check_decisions
from harness.verification.files import check_files
from harness.verification.recount import NO_ROWS, Others, Recounted, recount

NUMBERS = ("value", "ci_low", "ci_high", "n", "n_unknown", "worst_low", "worst_high")
COMPARED = ("difference", "ci_low", "ci_high", "p_value", "n_pairs", "before")
EXACT = frozenset({"value", "n", "n_unknown", "worst_low", "worst_high", "difference", "n_pairs", "before"})
RELATIVE, ABSOLUTE = 1e-5, 1e-9  # another machine's sums and square roots
SIZES = {"n_ok": Status.OK, "n_refused": Status.REFUSED, "n_error": Status.ERROR}


@dataclass(frozen=True)
class Verified:
    """What was checked of a run. `problems` is what does not match; `unchecked` what could not be checked, and why."""

    folder: Path
    status: str
    n_files: int
    n_images: int
    n_numbers: int
    problems: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def matches(self) -> bool:
        return not self.problems

    def lines(self) -> list[str]:
        """Return what was found, a line each: what was counted, what does not match, what could not be checked."""
        images = f", {self.n_images} images" if self.n_images else ""
        head = f"{self.n_files} files{images} and {self.n_numbers} numbers match"
        what = "verified" if self.matches else f"NOT verified, {len(self.problems)} do not match"
        return [f"{self.folder}: {what}: {head} ({self.status})",
                *(f"  does not match: {one}" for one in self.problems),
                *(f"  not checked: {one}" for one in self.unchecked)]


def verify_run(
    folder: Path, benches: Mapping[str, Any] | None = None, trusted: Sequence[str] = (), is_bundle: bool = False
) -> Verified:
    """Check the run in a folder; it executes nothing, and nothing is written. Raises HarnessError if it is none.

    `benches` are bench configs by name, for runs of earlier releases; `trusted` classes outside of the harness.
    `is_bundle`: images are not there.
    """
    folder = folder.resolve()
    run = load_run(folder)
    if not run.readable:
        raise HarnessError(f"{folder} cannot be verified: {'; '.join(run.problems)}.",
                           "Finish it first: run its command again.")
    (side,), others = load_sides([folder]), Others(benches or {}, trusted)
    store, cell = CellStore(folder, run.cell_id), others.cell(folder)
    images = list((cell.images() if cell else side.images).values())
    files = check_files(folder, store, with_images=not is_bundle)
    problems = [*files.problems, *_about(side, images)]
    problems += [f"{name}: {reason}" for name, reason in side_problems(store).items()
                 if not any(one.startswith(f"{name}:") for one in problems)]
    decided = check_decisions(side, cell, is_bundle)
    found = recount(side, cell, images, is_bundle, others)
    count, wrong, left = _numbers(side, found)
    return Verified(folder, run.status, files.n_intact, files.n_images, count, (*problems, *decided.problems, *wrong),
                    (*files.unchecked, *decided.unchecked, *left))


def side_problems(store: CellStore) -> dict[str, str]:
    """Return what reading the rows of a run had to leave out, but for images, which are checked one by one."""
    store.images()
    return {name: reason for name, reason in store.problems.items() if not name.startswith("images/")}


def _about(side: Side, rows: list[ImageRow]) -> list[str]:
    """Compare what cell.yaml, summary.json, provenance.json and the rows say of the same things."""
    run, problems = side.run, []
    identity = mapping(run.cell.get("identity"))
    if canonical_hash(identity)[: len(run.cell_id)] != run.cell_id:
        problems.append(f"cell.yaml: its identity is not that of cell {run.cell_id}")
    if run.folder and (run.model, run.method, run.bench) != run.folder.parts[-4:-1]:
        problems.append("summary.json: it names another model, method or bench than the folder")
    told = mapping(run.summary.get("images"))
    for name, status in SIZES.items():
        count = sum(row.status is status for row in rows)
        if name in told and told[name] != count:
            problems.append(f"summary.json: images.{name} is {told[name]}, and the rows have {count}")
    weights = mapping(identity.get("model")).get("weights")
    if run.provenance and run.provenance.get("weights_fingerprint") not in (None, weights):
        problems.append("provenance.json: its weights_fingerprint is not that of cell.yaml")
    origins = run.provenance.get("made_on")
    if isinstance(origins, list) and origins != made_on(rows):
        problems.append("provenance.json: made_on is not what the rows say")
    return problems


def _numbers(side: Side, found: Recounted) -> tuple[int, list[str], list[str]]:
    """Return how many numbers were counted again, which are others, and which could not be counted."""
    same_statistics = side.run.statistics == STATISTICS
    exact_order, count, wrong = found.in_order and same_statistics, 0, []
    left = [f"{name}: {reason}" for name, reason in found.reasons.items() if name]
    if not same_statistics:
        left.append(f"intervals: made by statistics {side.run.statistics}, and this release has {STATISTICS}")
    elif not found.in_order:
        left.append("resampled intervals and their p values: the prompt file is not here, which tells their order")
    metrics = mapping(side.run.summary.get("metrics"))
    for name, stored in metrics.items():
        again = found.metrics.get(name)
        if again is not None:
            count += 1
            wrong += _differences(name, stored, asdict(again), NUMBERS, exact_order)
        elif name not in found.reasons and stored.get("value") is not None:
            left.append(f"{name}: {_why(name, found)}")
    for label, entry in by_baseline(side.run.summary).items():
        for name, stored in entry["metrics"].items():
            again_compared = found.comparisons.get(label, {}).get(name)
            if again_compared is not None:
                count += 1
                wrong += _differences(f"{name} against {label}", stored, asdict(again_compared), COMPARED, exact_order)
            elif f"against {label}" not in found.reasons:
                left.append(f"{name} against {label}: {NO_ROWS}")
        for name, stored in entry["distances"].items():
            if name in metrics and _differences(name, stored, metrics[name], NUMBERS, True):
                wrong.append(f"{name}: summary.json has two values of it")
    return count, wrong, left


def _why(name: str, found: Recounted) -> str:
    return found.reasons.get(name) or (
        "it is of an attack, and needs the run before it" if "attack" in name else NO_ROWS)


def _differences(
    name: str, stored: Mapping[str, Any], again: Mapping[str, Any], keys: Sequence[str], exact_order: bool
) -> list[str]:
    resampled = "bootstrap" in str(stored.get("ci_method")) or "sign-flip" in str(stored.get("test"))
    return [
        f"{name}: {key} is {_shown(stored.get(key))} in summary.json, and {_shown(again.get(key))} counted again"
        for key in keys
        if (key in EXACT or exact_order or not resampled) and key in stored and not _same(stored[key], again.get(key))
    ]  # fmt: skip


def _same(stored: Any, again: Any) -> bool:
    if stored is None or again is None or isinstance(stored, bool):
        return stored is again
    if not isinstance(stored, int | float):
        return bool(stored == again)
    return math.isclose(stored, again, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "unknown" if value is None else str(value)
