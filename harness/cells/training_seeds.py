"""Training a method several times: with which setting its seed enters, and which cells are trainings of one recipe.

A method trains with a seed where its config has a setting `seed` that its artifact depends on. Closed forms do not:
they are the same each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.cells.cell import Cell
from harness.cells.job import Job
from harness.cells.seed_families import SEED, family_of, without_seed
from harness.cells.settings import RunSettings
from harness.errors import IncompatibleError
from harness.lib.hashing import canonical_hash
from harness.lib.targets import build
from harness.method import publish_concepts

Config = Mapping[str, Any]


def varies(config: Config, made: Callable[[Config], Any] = build) -> bool:
    """Return whether a method comes out otherwise when it is trained again with another seed; `made` builds it."""
    if not isinstance(config.get(SEED), int):
        return False
    method, other = made(config), made(_reseeded(config, 1))
    return bool(method.trains) and method.training_identity() != other.training_identity()


def with_training_seeds(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs, those whose methods train with a seed as often as `training_seeds` says, each with its own.

    The first is the job as it is; images and baselines are the same for all. Raises IncompatibleError if it would
    change nothing.
    """
    counts = [RunSettings.from_config(job.settings).training_seeds for job in jobs]
    if all(count == 1 for count in counts):
        return list(jobs)
    if any(job.settings.get("artifact") for job in jobs):
        raise IncompatibleError("artifact=... is a single training, but training_seeds asks for several.",
                                "Remove one of them.")
    groups = [[_trained_again(job, k) for k in range(count)] if any(map(varies, job.methods)) else [job]
             for job, count in zip(jobs, counts, strict=True)]
    if all(len(group) == 1 for group in groups):
        raise IncompatibleError(f"training_seeds={max(counts)} has no effect: {', '.join(unvaried(jobs))} train "
                                "without a seed.", "Remove it, or add a method that does.")
    return [job for group in groups for job in group]


def unvaried(jobs: Sequence[Job]) -> list[str]:
    """Return the names of the methods that come out the same however often they are trained, or train nothing."""
    return list(dict.fromkeys("+".join(str(method["name"]) for method in job.methods)
                              for job in jobs if not any(map(varies, job.methods))))


def training_of_recipe(cell: Cell) -> dict[str, Any] | None:
    """Return what summaries say of a cell that is one training of several possible ones; None for others.

    Cells of one `family` differ in the seed of training alone.
    """
    varying = _varying(cell)
    if not any(varying):
        return None
    methods = _alike(cell, varying)
    seeds = [config[SEED] for config, trained in zip(cell.spec.methods, varying, strict=True) if trained]
    return {"family": canonical_hash({**cell.identity, "methods": methods})[:12], "seed": seeds[0]}


def seed_family(cell: Cell) -> str:
    """Name the cells that differ in nothing but the seeds of images and training."""
    varying = _varying(cell)
    return family_of({**cell.identity, "methods": _alike(cell, varying)} if any(varying) else cell.identity)


def _varying(cell: Cell) -> list[bool]:
    return [varies(config, cell.shared.method) for config in cell.spec.methods]


def _alike(cell: Cell, varying: Sequence[bool]) -> list[dict[str, Any]]:
    """Return what names the methods, without the seeds of training."""
    # A word that one method learns and another uses is named by its training: by that of one seed for all.
    alike = publish_concepts([cell.shared.method({**config, SEED: 0} if trained else config)
                              for config, trained in zip(cell.spec.methods, varying, strict=True)])
    return [{**named, "params": without_seed(method.identity()["params"], trained)}
            for named, method, trained in zip(cell.identity["methods"], alike, varying, strict=True)]


def _trained_again(job: Job, k: int) -> Job:
    if k == 0:
        return job
    methods = tuple(_reseeded(config, k) if varies(config) else config for config in job.methods)
    seeds = [now[SEED] for now, before in zip(methods, job.methods, strict=True) if now is not before]
    return replace(job, methods=methods, method_overrides={**job.method_overrides, SEED: seeds[0]})


def _reseeded(config: Config, k: int) -> dict[str, Any]:
    return {**config, SEED: (int(config[SEED]) + k) % 2**64}
