"""Any cells of one bench, the first against each other one, and one family of p values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.comparisons.difference import Difference
from harness.comparisons.differences import (
    category_differences,
    differences,
    metric_names_of,
    telling_names,
    with_holm,
)
from harness.comparisons.margins import EQUIVALENT, NONINFERIOR, Claim, claim, read_margins, undecided
from harness.comparisons.matched import Matched, match
from harness.comparisons.sides import Side, load_sides
from harness.errors import InvalidValueError, unknown_name
from harness.lib.formatting import counted


@dataclass(frozen=True)
class PairOfCells:
    """Two cells compared. `by_category` is a family of its own for each judge; empty unless asked for."""

    a: Side
    b: Side
    matched: Matched
    differences: tuple[Difference, ...]
    left_out: Mapping[str, str]
    claims: tuple[Claim, ...] = ()
    by_category: Mapping[str, tuple[Difference, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.a.label} \N{MINUS SIGN} {self.b.label}"


@dataclass(frozen=True)
class Compared:
    """All that one command compared. Differences are a - b; `family` says over which tests p values are adjusted."""

    pairs: tuple[PairOfCells, ...]
    family: str


@dataclass(frozen=True)
class Asked:
    """What is asked of a comparison. Margins are in units of the metric, of rates in percentage points."""

    metrics: tuple[str, ...] = ()
    noninferior: Mapping[str, object] | None = None
    equivalent: Mapping[str, object] | None = None
    all_pairs: bool = False
    categories: bool = False


def compare_folders(folders: Sequence[Path], asked: Asked) -> Compared:
    """Compare the cells in these folders. Raises HarnessError."""
    if len(folders) < 2:
        raise InvalidValueError(f"{counted(len(folders), 'cell')} given.", "Name two at least: A B.")
    twice = [folder for i, folder in enumerate(folders) if folder.resolve() in {one.resolve() for one in folders[:i]}]
    if twice:
        raise InvalidValueError(f"{twice[0]} is given twice.", "Name different cells.")
    sides = load_sides(list(folders))
    which = itertools.combinations(sides, 2) if asked.all_pairs else ((sides[0], other) for other in sides[1:])
    return in_one_family([compare_sides(a, b, asked) for a, b in which])


def compare_sides(a: Side, b: Side, asked: Asked) -> PairOfCells:
    """Compare two cells that are read; p values are not adjusted yet. Raises HarnessError."""
    matched = match(a, b)
    known = metric_names_of(a, b)
    names = {meant for name in asked.metrics for meant in resolve(name, known)}
    margins = {kind: {_one(name, known, a): margin for name, margin in given.items()}
               for kind, given in ((NONINFERIOR, asked.noninferior or {}), (EQUIVALENT, asked.equivalent or {}))}
    needed = names | {name for given in margins.values() for name in given}
    found = differences(a, b, matched, needed if names else {*telling_names(a, b), *needed})
    by_name = {one.metric: one for one in found.found}
    claims = [claim(kind, by_name[name], margin) if name in by_name
              else undecided(kind, name, margin, found.left_out.get(name, "not compared"))
              for kind, given in margins.items() for name, margin in read_margins(kind, given).items()]  # fmt: skip
    categories = {judge: tuple(category_differences(a, b, matched, judge)) for judge in _judges(a, b, by_name)
                  } if asked.categories else {}
    asked_for = names or set(telling_names(a, b))
    shown = tuple(one for one in found.found if one.metric in asked_for)
    return PairOfCells(a, b, matched, shown, found.left_out, tuple(claims), categories)


def _judges(a: Side, b: Side, compared: Mapping[str, Difference]) -> list[str]:
    return [judge for judge, scored in a.scores.items()
            if scored.kind == "verdict" and judge in b.scores and a.names[judge] in compared]


def resolve(name: str, known: Sequence[str]) -> list[str]:
    """Return the metrics that a name means: itself, or those of all judges. Raises UnknownNameError."""
    found = [name] if name in known else [one for one in known if one.startswith(f"{name}/")]
    if not found:
        raise unknown_name("metric of both cells", name, known)
    return found


def _one(name: str, known: Sequence[str], side: Side) -> str:
    """Return the one metric that a margin is of: of several judges, that of the bench's own metric."""
    found = resolve(name, known)
    own = [one for one in found if one in (side.run.safety, side.run.fidelity)]
    if len(found) > 1 and len(own) != 1:
        raise InvalidValueError(f"{name} is measured by several judges.", f"Which one: {', '.join(found)}?")
    return found[0] if len(found) == 1 else own[0]


def in_one_family(pairs: Sequence[PairOfCells]) -> Compared:
    """Adjust the p values of all differences of all pairs together, and say of what the family is."""
    flat = with_holm([one for pair in pairs for one in pair.differences])
    taken = iter(flat)
    adjusted = tuple(replace(pair, differences=tuple(next(taken) for _ in pair.differences)) for pair in pairs)
    return Compared(adjusted, family_words(adjusted))


def family_words(pairs: Sequence[PairOfCells]) -> str:
    """Say over which tests the p values are adjusted."""
    tests = [one for pair in pairs for one in pair.differences]
    n = next((one.n_family for one in tests), 0)
    metrics = list(dict.fromkeys(one.metric for one in tests))
    of = f"{counted(len(pairs), 'pair')} of cells, {counted(len(metrics), 'metric')}"
    return f"Holm's method over {counted(n, 'test')}: {of}"
