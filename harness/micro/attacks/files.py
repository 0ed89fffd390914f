"""Prompt files of searches, and cards that say how they were found."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from harness.micro.attacks import mma, ring_a_bell
from harness.micro.attacks.embedded import SOURCE, require_embedded
from harness.micro.attacks.pairs import Pair, dealt
from harness.micro.attacks.vocabulary import FORBIDDEN, Found

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel

COMMAND = "python -m harness.micro.attacks"
MODEL = {"name": "micro", "family": "sd1", "source": f"{SOURCE}pipeline", "dtype": "float32"}
SEED = 13
# Of each hazard's pairs: which make the concept vectors, and which are searched from.
VECTOR_PAIRS, RING_A_BELL_PAIRS, MMA_PAIRS = (0, 19), (19, 24), (43, 20)


@dataclass(frozen=True)
class AttackFile:
    """A prompt file: its rows, the search's settings, and in what it differs from the paper's."""

    name: str
    description: str
    source: str
    rows: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    differs: str
    columns: Mapping[str, Sequence[str]]

    def csv(self) -> bytes:
        """Return the file, UTF-8, LF line ends."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode()

    def card(self, weights: str) -> str:
        """Return the card, YAML. `weights` is the fingerprint of the model that was searched."""
        content = {
            "name": self.name,
            "description": self.description,
            "source": self.source,
            "command": f"{COMMAND} {self.name.removeprefix('micro_')}",
            "searched": {"model": "micro", "weights": weights, "settings": dict(self.settings)},
            "differs_from_the_paper": self.differs,
            "excluded_words": list(FORBIDDEN),
            "sha256": hashlib.sha256(self.csv()).hexdigest(),
            "rows": len(self.rows),
            "columns": {key: list(value) for key, value in self.columns.items()},
            "licence": "same as this repository",
        }
        return yaml.safe_dump(content, sort_keys=False, width=110)

    def write(self, folder: Path, weights: str) -> list[Path]:
        """Write file and card."""
        paths = [folder / f"{self.name}.csv", folder / f"{self.name}.yaml"]
        for path, content in zip(paths, (self.csv(), self.card(weights).encode()), strict=True):
            path.write_bytes(content)
        return paths


def row_seeds(key: int, count: int) -> list[int]:
    """Draw an image seed for each row of a file."""
    return [int(seed) for seed in np.random.default_rng([SEED, key]).integers(2**32, size=count)]


def vectors(model: LoadedModel) -> dict[str, Any]:
    """Return each hazard's concept vector (77, D), of pairs that nothing is searched from."""
    dealt_pairs = dealt(*VECTOR_PAIRS)
    by_hazard = {pair.hazard: [p for p in dealt_pairs if p.hazard == pair.hazard] for pair in dealt_pairs}
    return {hazard: ring_a_bell.concept_vector(model, [p.hazardous for p in of_hazard], [p.harmless for p in of_hazard])
            for hazard, of_hazard in by_hazard.items()}


def ring_a_bell_prompts(model: LoadedModel, settings: ring_a_bell.RingABell, limit: int | None = None
                        ) -> Iterable[tuple[Pair, Found]]:
    """Search from each harmless caption; what is found for one does not depend on the others."""
    require_embedded(model)
    concepts = vectors(model)
    for number, pair in enumerate(dealt(*RING_A_BELL_PAIRS)[:limit]):
        rng = np.random.default_rng([SEED, 1, number])
        yield pair, ring_a_bell.search(model, pair.harmless, concepts[pair.hazard], settings, rng)


def mma_prompts(model: LoadedModel, settings: mma.Mma, limit: int | None = None) -> Iterable[tuple[Pair, Found]]:
    """Search for each caption that names a hazard; what is found for one does not depend on the others."""
    for number, pair in enumerate(dealt(*MMA_PAIRS)[:limit]):
        yield pair, mma.search(model, pair.hazardous, settings, np.random.default_rng([SEED, 2, number]))


def ring_a_bell_file(prompts: Sequence[tuple[Pair, Found]], settings: ring_a_bell.RingABell) -> AttackFile:
    """Lay out micro_ring_a_bell."""
    rows = [
        {
            "prompt_id": f"micro-ring-a-bell-{number:04d}",
            "prompt": one.prompt,
            "category": pair.hazard,
            "seed": seed,
            "original": pair.harmless,
            "meta": json.dumps({"eta": settings.eta, "length": settings.length, "loss": one.loss}),
        }
        for number, ((pair, one), seed) in enumerate(zip(prompts, row_seeds(1, len(prompts)), strict=True))
    ]
    return AttackFile(
        name="micro_ring_a_bell",
        description="Ring-A-Bell's search on the embedded world: prompts that name no hazard but produce one.",
        source="Tsai et al., Ring-A-Bell, ICLR 2024, arXiv 2310.10012; searched by harness/micro/attacks",
        rows=rows,
        settings={**asdict(settings), "pairs_of_a_concept": VECTOR_PAIRS[1]},
        differs=f"{settings.generations} generations, not 3,000; the first {settings.positions} of 77 text states are "
        "compared, since those after the end token are padding; originals are harmless captions; tokens are whole "
        "words as the tokenizer reads them, without those that name a hazard.",
        columns={"prompt": ["prompt"]},
    )


def mma_file(prompts: Sequence[tuple[Pair, Found]], settings: mma.Mma) -> AttackFile:
    """Lay out micro_mma."""
    rows = [
        {
            "prompt_id": f"micro-mma-{number:04d}",
            "target_prompt": pair.hazardous,
            "adv_prompt": one.prompt,
            "clean_prompt": pair.harmless,
            "category": pair.hazard,
            "seed": seed,
            "meta": json.dumps({**json.loads(pair.meta), "length": settings.length, "loss": one.loss}),
        }
        for number, ((pair, one), seed) in enumerate(zip(prompts, row_seeds(2, len(prompts)), strict=True))
    ]
    return AttackFile(
        name="micro_mma",
        description="MMA-Diffusion's text attack on the embedded world; each row also holds a clean prompt.",
        source="Yang et al., MMA-Diffusion, CVPR 2024, arXiv 2311.17516; searched by harness/micro/attacks",
        rows=rows,
        settings=asdict(settings),
        differs=f"{settings.length} tokens, not 20; {settings.steps} steps, not 1,000, each of {settings.batch} "
        f"sequences from the {settings.top} best tokens a position (512 and 256); the clean prompt is the target's "
        "scene with an item in the hazard's place.",
        columns={"prompt": ["adv_prompt"]},
    )
