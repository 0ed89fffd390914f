"""Verdicts held against the scores that they were decided from, where the evaluator can be made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.cells.cell import Cell
from harness.cells.comparable import mapping
from harness.cells.evaluations import Rows, combined, judged
from harness.cells.judgements import FILE, Judgement, read_judgements
from harness.comparisons.sides import Side
from harness.errors import HarnessError
from harness.evaluator import CompositeEvaluator
from harness.evaluators.identity import evaluator_fingerprint
from harness.records import ImageKey

OLD = f"{FILE}: missing, as in runs of earlier releases; `python -m harness score` writes it"


@dataclass
class Decided:
    """What is not as the scores say, and what could not be decided again."""

    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def check_decisions(side: Side, cell: Cell | None, is_bundle: bool) -> Decided:
    """Decide every stored score again and compare. Bundles hold verdicts alone."""
    found, told = Decided(), mapping(side.run.summary.get("evaluators"))
    assert side.run.folder is not None
    fingerprints = {str(name): str(mapping(one).get("fingerprint")) for name, one in told.items()}
    kept = read_judgements(side.run.folder, fingerprints, side.images)
    if kept is None:
        found.unchecked.append(OLD)
    elif is_bundle or cell is None:
        found.unchecked.append("verdicts against scores: the scores are not here")
    else:
        decided: dict[str, Rows] = {}
        for name, said in kept.items():
            if said:
                _check(found, name, said, fingerprints[name], cell, decided)
    return found


def _check(
    found: Decided, name: str, said: Mapping[ImageKey, Judgement], fingerprint: str, cell: Cell,
    decided: dict[str, Rows],
) -> None:  # fmt: skip
    config = next((one for one in cell.evaluators if one["name"] == name), None)
    try:
        if config is None:
            raise HarnessError("cell.yaml does not configure it")
        evaluator = cell.evaluator(config)
        parts = evaluator.parts if isinstance(evaluator, CompositeEvaluator) else ()
        made = {part: cell.evaluator(one) for part in parts for one in cell.evaluators if one["name"] == part}
        if evaluator_fingerprint(evaluator, made) != fingerprint:
            raise HarnessError("its version or its weights here are others")
        if isinstance(evaluator, CompositeEvaluator):
            decided[name] = combined(evaluator, decided)
        else:
            decided[name] = judged(cell.store, evaluator, images=cell.images())
    except (HarnessError, KeyError, OSError) as error:
        found.unchecked.append(f"verdicts of {name} against its scores: {error}")
        return
    n_other = sum(_differs(one, decided[name].get(key)) for key, one in said.items())
    if n_other:
        found.problems.append(f"{FILE}: {n_other} of {len(said)} of {name} are not what its scores give")


def _differs(one: Judgement, again: object) -> bool:
    """Return whether a kept judgement is not the one that the scores give."""
    row = one.row
    return again is None or any(getattr(row, key) != getattr(again, key) for key in ("verdict", "value"))
