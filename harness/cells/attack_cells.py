"""Cells of an attack's prompts beside those of the prompts before it: planned together, found again, read for rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness.bench import PromptSet
from harness.cells.attacked import Before, attacked_prompts
from harness.cells.cell import Cell
from harness.cells.evaluations import scores_of
from harness.cells.job import Job
from harness.cells.making import make_cell
from harness.errors import IncompatibleError, InvalidValueError
from harness.evaluator import Evaluator
from harness.metrics.attack_rates import Unattacked

_DRAWN = {"num_inference_steps": "steps", "guidance_scale": "guidance", "height": "height", "width": "width",
          "size": "size"}  # fmt: skip


def with_before(cell: Cell, job: Job, wanted: PromptSet | None) -> tuple[Cell, Cell | None]:
    """Return the cell with what its prompts attack, and the cell of those: as many of them as a limited run needs.

    `wanted` are the prompts of `job.before`, None if they are not on this machine.
    """
    if job.before is None:
        return cell, None
    column = job.bench.get("attacked_column") if job.bench.get("attacks") else None
    attacked = attacked_prompts(cell.prompts, wanted, column) if cell.prompts and wanted else {}
    attacks = {row.prompt_id: attacked[row.prompt_id] for row in cell.rows if row.prompt_id in attacked}
    limit = cell.limit
    if limit and wanted:
        reached = set(attacks.values())
        limit = max((place for place, row in enumerate(wanted.rows, 1) if row.prompt_id in reached), default=1)
    before = make_cell(job.on_bench(job.before, limit=limit, repeats=cell.repeats), wanted, cell.shared)
    return replace(cell, before=_joined(cell, before, attacks)), replace(before, baseline_of=cell.cell_id)


def with_given_before(cell: Cell, before: Cell, column: str | None) -> Cell:
    """Return a cell whose prompts attack those of another that is there. Raises HarnessError if they do not fit."""
    if before.folder.parents[1] != cell.folder.parents[1]:
        raise IncompatibleError(f"{before.folder} is of {'/'.join(before.spec.name.split('/')[:2])}, but the attack's "
                                f"images are of {'/'.join(cell.spec.name.split('/')[:2])}.",
                                "Runs before and after an attack must have the same model, method and results folder.")
    if not (cell.prompts and before.prompts):
        raise InvalidValueError(f"{before.folder}: its prompts are unknown.")
    attacked = attacked_prompts(cell.prompts, before.prompts, column)
    attacks = {row.prompt_id: attacked[row.prompt_id] for row in cell.rows if row.prompt_id in attacked}
    return replace(cell, bench=replace(cell.bench, attack="attack"), before=_joined(cell, before, attacks))


def unattacked(cell: Cell, evaluators: Mapping[str, Evaluator]) -> Unattacked | None:
    """Return what the same judges said of the prompts before the attack; None if the cell knows of none."""
    if cell.before is None:
        return None
    mine = set(cell.before.prompts)
    store = cell.shared.stores.of(cell.before.folder)
    images = [image for key, image in store.images().items()
              if key.prompt_id in mine and key.repeat < cell.repeats]  # fmt: skip
    scores, note = scores_of(store, evaluators), cell.before.differs
    return Unattacked(images, scores, cell.before.prompts, cell.before.attacks, note)


def _joined(cell: Cell, before: Cell, attacks: Mapping[str, str]) -> Before:
    """Join two cells. A limited run's rates are of the prompts that it attacks, others' of all prompts before it."""
    reached = set(attacks.values())
    prompts = tuple(row.prompt_id for row in before.rows if cell.limit is None or row.prompt_id in reached)
    seeds = {(item.key.prompt_id, item.key.repeat): item.seed for item in before.items()}
    other = any(seeds.get((attacks[item.key.prompt_id], item.key.repeat), item.seed) != item.seed
                for item in cell.items() if item.key.prompt_id in attacks)
    drawn = [(words, before.identity.get(key), cell.identity.get(key)) for key, words in _DRAWN.items()]
    differs = [f"{words} {first} before it and {under} under it" for words, first, under in drawn if first != under]
    return Before(before.folder, attacks, prompts, "; ".join([*["other noise before it"] * other, *differs]))
