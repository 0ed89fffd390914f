"""A cell: one row of the leaderboard, with its prompts, what is built of its configs and what is stored of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bench import Card, PromptSet
from harness.cells.attacked import Before
from harness.cells.followed import Followed
from harness.cells.identity import by_row
from harness.cells.proposed_sampling import Sampling
from harness.cells.reference import Reference, reference_config
from harness.cells.settings import BenchSettings
from harness.cells.shared import Shared
from harness.cells.store import CellStore
from harness.evaluator import Evaluator
from harness.evaluators.identity import EvaluatorKey
from harness.lib.hashing import canonical_hash
from harness.method import Method, publish_concepts
from harness.records import CellSpec, ImageItem, ImageKey, ImageRow, PromptRow, image_seed

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One row of the leaderboard: a method on a model on a bench, with its settings and its prompts.

    What it is asked for more than once (methods, evaluators, stored rows) is `shared` with the other cells of the
    command, and made or read once. It stays in this process: workers get `spec`.
    """

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
    protocols: tuple[Followed, ...] = ()  # that this command asks for
    shared: Shared = field(default_factory=Shared, compare=False, repr=False)

    @property
    def cell_id(self) -> str:
        return self.spec.cell_id

    @property
    def folder(self) -> Path:
        return Path(self.spec.folder)

    @property
    def store(self) -> CellStore:
        """Return what is on disk of it."""
        return self.shared.stores.of(self.folder, self.cell_id)

    @property
    def method(self) -> str:
        return self.spec.holds[1]

    @property
    def methods(self) -> list[Method]:
        """Return its methods, left to right, each with the concepts that those on its left publish."""
        return publish_concepts([self.shared.method(config) for config in self.spec.methods])

    def evaluator(self, config: Config) -> Evaluator:
        """Return the evaluator of a config, not set up."""
        made: Evaluator = self.shared.evaluator(config)
        return made

    def key_of(self, config: Config) -> EvaluatorKey:
        """Return whose stored scores are those of an evaluator."""
        return self.shared.evaluator_key(config)

    def reference_set(self, evaluator: Config) -> Reference | None:
        """Return what the evaluator's features are compared with; None for a bench or an evaluator without any.

        Raises InvalidValueError if the evaluator names a folder and the bench reads none.
        """
        if self.evaluator(evaluator).kind != "features":
            return None
        ids = self.prompts.ids if self.prompts else None
        config = reference_config(self.reference, evaluator, ids, self.bench.name)
        if config is None:
            return None
        return self.shared.reference_set(config, evaluator, self.bench.name, self.spec.artifacts)

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

    def items(self) -> tuple[ImageItem, ...]:
        """Return every image of the cell in its fixed order: all prompts of repeat 0, then of repeat 1, ..."""
        bounds = (self.bench.guidance_floor, self.bench.guidance_cap) if self._by_row else None
        same = (self.prompts and self.prompts.hash, self.limit, self.repeats, self.bench.seed_name, self.spec.seed,
                self.guidance_scale, bounds, self.bench.size == "row")  # fmt: skip
        return self.shared.items(same, lambda: tuple(self._item(row, repeat) for repeat in range(self.repeats)
                                                     for row in self.rows))

    def images(self) -> dict[ImageKey, ImageRow]:
        """Return the stored rows of the images that the cell asks for, in its order."""
        stored = self.store.images()
        return {item.key: stored[item.key] for item in self.items() if item.key in stored}

    @property
    def _by_row(self) -> bool:
        return by_row(self.bench, self.spec.model)

    def _item(self, row: PromptRow, repeat: int) -> ImageItem:
        seed = row.seed if repeat == 0 and self.spec.seed == 0 else None
        if seed is None:
            seed = image_seed(self.bench.seed_name or self.bench.name, row.prompt_id, repeat, self.spec.seed)
        guidance = self.guidance_scale
        if self._by_row and row.guidance is not None:
            guidance = min(max(row.guidance, self.bench.guidance_floor), self.bench.guidance_cap)
        key = ImageKey(row.prompt_id, repeat)
        size = row.size if self.bench.size == "row" else None
        return ImageItem(key, row.prompt, seed, guidance, row.category, row.negative_prompt, size)


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
