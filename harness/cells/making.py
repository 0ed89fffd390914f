"""From a job to its cell: settings checked against each other, parts that fit, a name for all that changes pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.bench import Card, PromptSet
from harness.cells.cell import Cell
from harness.cells.followed import Followed
from harness.cells.identity import (
    by_row,
    cell_identity,
    ignores_guidance,
    method_identities,
    model_identity,
    row_guidance,
    sampling_identity,
)
from harness.cells.job import Job
from harness.cells.settings import BenchSettings, RunSettings
from harness.cells.shared import Shared
from harness.checks import check_integer, check_number
from harness.errors import HarnessError, IncompatibleError
from harness.lib.absolute import absolute
from harness.lib.hashing import canonical_hash
from harness.method import Method, check_acts, check_composition, check_published, publish_concepts
from harness.models.families import family_of
from harness.records import CellSpec, GenerationSettings
from harness.training.artifacts import read_given

Config = Mapping[str, Any]


def make_cell(job: Job, prompts: PromptSet | None, shared: Shared | None = None) -> Cell:
    """Make the cell of a job. Raises HarnessError for values out of range and parts that do not fit.

    `prompts` are those of its bench, None if they are not on this machine. `shared` is what the other cells of the
    command have asked for.
    """
    shared = shared or Shared()
    if "images" in job.bench:
        raise IncompatibleError(f"bench {job.bench['name']} already has its images.",
                                "Judge them: python -m harness score")
    run, model = RunSettings.from_config(job.settings), shared.model(job.model)
    configured = [shared.method(config) for config in job.methods]
    check_published(configured)
    methods = publish_concepts(configured)
    bench = BenchSettings.from_config(job.bench)
    generation = _generation(run, bench, model)
    if bench.size is not None:
        family_of(model).check_size(model, bench.size)
    guidance = _guidance_scale(bench, model)
    _check_negative_prompts(model, prompts, bench)
    _check_methods(methods, model, guidance, generation)
    given = read_given(run.artifact, methods, model) if run.artifact else None
    identity = cell_identity(
        model_identity(model, shared.weights(model)),
        method_identities(methods, {given.kind: given.key} if given else {}),
        sampling_identity(bench, generation, row_guidance(bench) if by_row(bench, model) else guidance, run.seed,
                          prompts),
    )  # fmt: skip
    placed = [_placed(config, method, shared) for config, method in zip(job.methods, configured, strict=True)]
    spec = _spec(run, identity, model, placed, generation)
    reference = job.bench.get("reference")
    card = shared.card({"name": str(job.bench.get("card") or job.bench["name"]), "variant": job.bench.get("variant")})
    return Cell(
        spec=replace(spec, given=str(given.folder) if given else None),
        bench=bench,
        evaluators=tuple(shared.absolute(config) for config in job.evaluators),
        reference=absolute(reference) if reference else reference,
        identity=identity,
        method_overrides=job.method_overrides,
        prompts=prompts,
        card=card,
        card_rows=_card_rows(job.bench, card),
        limit=run.limit,
        repeats=run.repeats or bench.repeats,
        guidance_scale=guidance,
        bench_config=job.bench,
        sampling=job.sampling,
        protocols=_followed(job.protocol, prompts),
        shared=shared,
    )


def _followed(protocol: Followed | None, prompts: PromptSet | None) -> tuple[Followed, ...]:
    """Return the protocol of prompts that are here. Raises InvalidValueError where it is strict and they are others."""
    if protocol is None:
        return ()
    other = prompts.other_prompts if prompts else None
    return (protocol.departing(*([f"bench.file: {other}"] if other else [])),)


def as_baseline(cell: Cell, of: Cell) -> Cell:
    """Mark a cell that was added only because `of` is compared with it. Raises IncompatibleError unless they pair."""
    if cell.pairing != of.pairing:
        raise IncompatibleError(f"{of.label} is not sampled like {cell.label}: they cannot be compared.")
    return replace(cell, baseline_of=of.cell_id)


def joined(first: Cell, other: Cell) -> Cell:
    """Return one cell for two jobs that generate the same images: the longer one, judged by the evaluators of both.

    A job's own cell goes before one that was added as a baseline. Raises HarnessError where it would have to choose.
    """
    if first is other:
        return first
    if first.baseline_of and not other.baseline_of:
        first, other = other, first
    for name, one, another in (("batch_size", first.spec.settings.batch_size, other.spec.settings.batch_size),
                               ("artifact", first.spec.given, other.spec.given)):
        if one != another:
            raise HarnessError(f"'{name}' cannot be swept: {first.label} with {one} and with {another} is one cell.")
    evaluators = {str(config["name"]): config for config in first.evaluators}
    for config in other.evaluators:
        if evaluators.setdefault(str(config["name"]), config) != config:
            raise HarnessError(f"settings of evaluator {config['name']} cannot be swept: its scores of {first.label} "
                               "are stored under one name.", "Give each its own name: a config in conf/evaluator.")
    limits = (first.limit, other.limit)
    return replace(first, limit=None if None in limits else max(filter(None, limits)),
                   repeats=max(first.repeats, other.repeats), before=first.before or other.before,
                   protocols=_both(first, other),
                   evaluators=tuple(evaluators.values()))


def _both(first: Cell, other: Cell) -> tuple[Followed, ...]:
    """Return the protocols of two jobs for the same images. Raises HarnessError if one asks for more of them."""
    both = {one.label: one for one in (*other.protocols, *first.protocols)}
    if both and (first.limit, first.repeats) != (other.limit, other.repeats):
        raise HarnessError(f"{first.label}: one job asks for more of the same images than another, which protocol "
                           f"{', '.join(both)} does not.", "Run them apart, each with its own results=<folder>.")
    return tuple(both.values())


def _spec(
    run: RunSettings, identity: Config, model: Config, methods: Sequence[Config], generation: GenerationSettings
) -> CellSpec:
    cell_id = canonical_hash(identity)[:12]
    names = str(model["name"]), "+".join(str(config["name"]) for config in methods), str(identity["bench"]["name"])
    results = Path(run.results).expanduser().resolve()
    return CellSpec(
        cell_id=cell_id,
        name="/".join(names),
        folder=str(results.joinpath("runs", *names, cell_id)),
        model=model,
        methods=tuple(methods),
        settings=generation,
        seed=run.seed,
        artifacts=str(results / "artifacts"),
    )


def _check_methods(methods: Sequence[Method], model: Config, guidance: float, generation: GenerationSettings) -> None:
    for method in methods:
        method.check(model, guidance)
        check_acts(method, model, generation.num_inference_steps)
    check_composition(methods)


def _card_rows(bench: Config, card: Card) -> int | None:
    """Return how many rows the card says that the bench has; None if the bench's own settings choose among them."""
    if any(bench.get(key) for key in ("categories", "where", "ids", "without")):
        return None
    return card.rows


def _placed(config: Config, method: Method, shared: Shared) -> Config:
    """Return a method's config with absolute paths, unless it is named by the path as it is written."""
    placed = shared.absolute(config)
    if placed == config:
        return config
    moved = shared.method(placed)
    same = moved.identity() == method.identity() and moved.training_identity() == method.training_identity()
    return placed if same else config


def _generation(run: RunSettings, bench: BenchSettings, model: Config) -> GenerationSettings:
    bench_size = None if bench.size == "row" else bench.size
    size = bench_size or check_integer("model.size", model["size"], 8, 8192)
    steps = bench.num_inference_steps or check_integer(
        "model.num_inference_steps", model["num_inference_steps"], 1, 1000
    )
    batch_size = run.batch_size or check_integer("model.batch_size", model["batch_size"], 1)
    return GenerationSettings(num_inference_steps=steps, height=size, width=size, batch_size=batch_size)


def _check_negative_prompts(model: Config, prompts: PromptSet | None, bench: BenchSettings) -> None:
    with_negative = sum(row.negative_prompt is not None for row in prompts.rows) if prompts else 0
    if with_negative and not model.get("negative_branch", True):
        raise IncompatibleError(f"{with_negative} prompts of {bench.name} have a negative prompt, but model "
                                f"{model['name']} has no unconditional branch: {model['one_row_because']}.")


def _guidance_scale(bench: BenchSettings, model: Config) -> float:
    default = check_number("model.guidance_scale", model["guidance_scale"], 0, 100)
    if ignores_guidance(model):
        return default
    return default if bench.guidance_scale in (None, "row") else float(bench.guidance_scale or 0.0)
