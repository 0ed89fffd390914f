"""Cells and images: who they are, and the hashes that name them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.bench import Card, PromptSet, find_card
from harness.cells.attacked import Before
from harness.cells.proposed_sampling import Sampling
from harness.cells.settings import BenchSettings, RunSettings
from harness.checks import check_integer, check_number
from harness.errors import IncompatibleError
from harness.lib.absolute import absolute
from harness.lib.targets import build
from harness.method import Method, check_acts, check_composition, check_published, publish_concepts
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.families import family_of
from harness.models.loading import weights_fingerprint
from harness.models.stages import stages_identity
from harness.records import CellSpec, GenerationSettings, ImageItem, ImageKey, PromptRow, image_seed
from harness.training.artifacts import GivenArtifact, read_given

RECIPE = 1  # raised when the engine makes other pixels from the same configuration

Config = Mapping[str, Any]

# Of a model's config, what changes pixels besides the weights themselves.
_PIXEL_KEYS = ("dtype", "vae_dtype", "scheduler", "scheduler_config", "variant", "prediction_type",
               "max_sequence_length")


@dataclass(frozen=True)
class Cell:
    """One row of the leaderboard: a method on a model on a bench, with its settings and its prompts."""

    spec: CellSpec
    bench: BenchSettings
    evaluators: tuple[Config, ...]
    reference: Config | None
    identity: Config
    method_overrides: Config
    prompts: PromptSet | None
    card: Card
    card_rows: int | None  # what the card says, where the prompts themselves are not here
    limit: int | None
    repeats: int
    guidance_scale: float
    baseline_of: str | None = None  # set on cells that were added only to compare with
    bench_config: Config = field(default_factory=dict)  # resolved, so that another command can load the prompts again
    before: Before | None = None  # of an attack's prompts: the cell of those that they attack
    sampling: Sampling = field(default_factory=Sampling)  # as a method's release samples, and why not

    @property
    def cell_id(self) -> str:
        return self.spec.cell_id

    @property
    def folder(self) -> Path:
        return Path(self.spec.folder)

    @property
    def method(self) -> str:
        return self.spec.holds[1]

    @property
    def label(self) -> str:
        """Return the name for people: with the method's settings that the command line changed, and a release's."""
        told = {**self.method_overrides, **self.sampling.taken}
        changed = ", ".join(f"{key}={value}" for key, value in told.items())
        return f"{self.spec.name} ({changed})" if changed else self.spec.name

    @property
    def pairing(self) -> str:
        """Return what a baseline must share: everything but the method."""
        return canonical_hash({key: value for key, value in self.identity.items() if key != "methods"})

    @property
    def rows(self) -> tuple[PromptRow, ...]:
        rows = self.prompts.rows if self.prompts else ()
        return rows[: self.limit]

    @property
    def n_images(self) -> int | None:
        """Return how many images the cell asks for, by its card where the prompts are not here."""
        rows = len(self.prompts.rows) if self.prompts else self.card_rows
        return None if rows is None else min(rows, self.limit or rows) * self.repeats

    def items(self) -> list[ImageItem]:
        """Return every image of the cell in its fixed order: all prompts of repeat 0, then of repeat 1, ..."""
        return [self._item(row, repeat) for repeat in range(self.repeats) for row in self.rows]

    def _item(self, row: PromptRow, repeat: int) -> ImageItem:
        own = row.seed if repeat == 0 and self.spec.seed == 0 else None
        seed = own if own is not None else image_seed(self.bench.seed_name, row.prompt_id, repeat, self.spec.seed)
        guidance = self.guidance_scale
        if _by_row(self.bench, self.spec.model) and row.guidance is not None:
            guidance = min(max(row.guidance, self.bench.guidance_floor), self.bench.guidance_cap)
        key = ImageKey(row.prompt_id, repeat)
        size = row.size if self.bench.size == "row" else None
        return ImageItem(key, row.prompt, seed, guidance, row.category, row.negative_prompt, size)


def canonical_hash(value: Any) -> str:
    """Return sha256 of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def make_cell(
    run: RunSettings,
    model: Config,
    methods: Sequence[Config],
    bench: Config,
    evaluators: Sequence[Config],
    prompts: PromptSet | None,
    method_overrides: Config | None = None,
    sampling: Sampling | None = None,
) -> Cell:
    """Build a cell from resolved configs. Raises HarnessError for values out of range and parts that do not fit."""
    if "images" in bench:
        raise IncompatibleError(f"bench {bench['name']} has its images already.", "Judge them: python -m harness score")
    model = settled(model)
    check_known(model)
    configured = [_method(config) for config in methods]
    check_published(configured)
    built = publish_concepts(configured)
    settings = BenchSettings.from_config(bench)
    generation = _generation(run, settings, model)
    if settings.size is not None:
        family_of(model).check_size(model, settings.size)
    guidance = _guidance_scale(settings, model)
    _check_negative_prompts(model, prompts, settings)
    for method in built:
        method.check(model, guidance)
        check_acts(method, model, generation.num_inference_steps)
    check_composition(built)
    given = read_given(run.artifact, built, model) if run.artifact else None
    identity = _identity(run, model, built, settings, generation, guidance, prompts, given)
    cell_id = canonical_hash(identity)[:12]
    name = "+".join(str(config["name"]) for config in methods)
    results = Path(run.results).expanduser().resolve()
    spec = CellSpec(
        cell_id=cell_id,
        name=f"{model['name']}/{name}/{settings.name}",
        folder=str(results / "runs" / str(model["name"]) / name / settings.name / cell_id),
        model=model,
        methods=tuple(_placed(config, method) for config, method in zip(methods, configured, strict=True)),
        settings=generation,
        seed=run.seed,
        artifacts=str(results / "artifacts"),
        given=str(given.folder) if given else None,
    )
    return Cell(
        spec,
        settings,
        tuple(absolute(config) for config in evaluators),
        absolute(reference) if (reference := bench.get("reference")) else reference,
        identity,
        method_overrides or {},
        prompts,
        card := find_card(str(bench.get("card") or bench["name"]), bench.get("variant")),
        _card_rows(bench, card),
        run.limit,
        run.repeats or settings.repeats,
        guidance,
        bench_config=bench,
        sampling=sampling or Sampling(),
    )


def _card_rows(bench: Config, card: Card) -> int | None:
    """Return how many rows the card says that the bench has; None where the bench's own settings choose among them."""
    if any(bench.get(key) for key in ("categories", "where", "ids", "without")):
        return None
    return card.rows


def as_baseline(cell: Cell, of: Cell) -> Cell:
    """Mark a cell that was added only because `of` is compared with it. Raises IncompatibleError unless they pair."""
    if cell.pairing != of.pairing:
        raise IncompatibleError(f"{of.label} is not drawn as {cell.label} is: they cannot be compared.")
    return replace(cell, baseline_of=of.cell_id)


def _method(config: Config) -> Method:
    method: Method = build(config, Method)
    return method


def _placed(config: Config, method: Method) -> Config:
    """Return a method's config with absolute paths, unless it is named by the path as it is written."""
    placed = absolute(config)
    if placed == config:
        return config
    moved = _method(placed)
    same = moved.identity() == method.identity() and moved.training_identity() == method.training_identity()
    return placed if same else config


def _generation(run: RunSettings, bench: BenchSettings, model: Config) -> GenerationSettings:
    own = None if bench.size == "row" else bench.size
    size = own or check_integer("model.size", model["size"], 8, 8192)
    steps = bench.num_inference_steps or check_integer(
        "model.num_inference_steps", model["num_inference_steps"], 1, 1000
    )
    batch_size = run.batch_size or check_integer("model.batch_size", model["batch_size"], 1)
    return GenerationSettings(num_inference_steps=steps, height=size, width=size, batch_size=batch_size)


def _check_negative_prompts(model: Config, prompts: PromptSet | None, bench: BenchSettings) -> None:
    own = sum(row.negative_prompt is not None for row in prompts.rows) if prompts else 0
    if own and not model.get("negative_branch", True):
        raise IncompatibleError(f"{own} prompts of {bench.name} bring a negative prompt, and model {model['name']} has "
                                f"no unconditional branch: {model['one_row_because']}.")


def ignores_guidance(model: Config) -> bool:
    """Say whether a guidance scale changes nothing: the model was distilled to have none."""
    return model.get("reads_guidance", True) is False


def _guidance_scale(bench: BenchSettings, model: Config) -> float:
    default = check_number("model.guidance_scale", model["guidance_scale"], 0, 100)
    if ignores_guidance(model):
        return default
    return default if bench.guidance_scale in (None, "row") else float(bench.guidance_scale or 0.0)


def _identity(
    run: RunSettings,
    model: Config,
    methods: Sequence[Method],
    bench: BenchSettings,
    generation: GenerationSettings,
    guidance: float,
    prompts: PromptSet | None,
    given: GivenArtifact | None,
) -> dict[str, Any]:
    """Return everything that changes pixels, and nothing that does not."""
    return {
        "recipe": RECIPE,
        "model": {
            "name": model["name"],
            "weights": weights_fingerprint(model),
            **{key: model[key] for key in _PIXEL_KEYS if model.get(key) is not None},
            **({"stages": stages} if (stages := stages_identity(model)) else {}),
        },
        "methods": [_method_identity(method, given) for method in methods],
        "bench": {"name": bench.name, "version": bench.version, "prompts": prompts.hash if prompts else None},
        "num_inference_steps": generation.num_inference_steps,
        "guidance_scale": _row_guidance(bench) if _by_row(bench, model) else guidance,
        "height": generation.height,
        "width": generation.width,
        "seed": run.seed,
        **({"row_seeds": "of seed 0"} if run.seed and _brings_seeds(prompts) else {}),
        **({"size": "row"} if bench.size == "row" else {}),
        **({"seeds": bench.seed_name} if bench.seed_name != bench.name else {}),
    }


def _brings_seeds(prompts: PromptSet | None) -> bool:
    return prompts is not None and any(row.seed is not None for row in prompts.rows)


def _by_row(bench: BenchSettings, model: Config) -> bool:
    return bench.guidance_scale == "row" and not ignores_guidance(model)


def _row_guidance(bench: BenchSettings) -> str:
    return f"row, from {bench.guidance_floor:g} to {bench.guidance_cap:g}"


def _method_identity(method: Method, given: GivenArtifact | None) -> dict[str, Any]:
    own = dict(method.identity())
    return own | {"artifact": given.key} if given and given.kind == method.kind else own


def cell_file(cell: Cell) -> dict[str, Any]:
    """Return what cell.yaml holds: the configuration, and the bench's, by which prompts are found again."""
    return {**cell_config(cell), "bench": plain(cell.bench_config)}


def cell_config(cell: Cell) -> dict[str, Any]:
    """Return the resolved, result-affecting configuration."""
    return plain(
        {
            "cell_id": cell.cell_id,
            "name": cell.spec.name,
            "identity": cell.identity,
            "model": cell.spec.model,
            "methods": list(cell.spec.methods),
            "evaluators": list(cell.evaluators),
            "settings": cell_settings(cell),
        }
    )


def cell_settings(cell: Cell) -> dict[str, Any]:
    spec = cell.spec.settings
    return {
        "num_inference_steps": spec.num_inference_steps,
        "height": spec.height,
        "width": spec.width,
        **({"size": "row"} if cell.bench.size == "row" else {}),
        "guidance_scale": cell.identity["guidance_scale"],
        "batch_size": spec.batch_size,
        "seed": cell.spec.seed,
        "repeats": cell.repeats,
        "limit": cell.limit,
        "method_overrides": plain(cell.method_overrides),
        **({"sampling": plain(cell.sampling.taken)} if cell.sampling.taken else {}),
    }


def plain(value: Any) -> Any:
    """Return nested plain dicts, lists and scalars, as YAML and JSON want them."""
    return json.loads(json.dumps(value, default=str))
