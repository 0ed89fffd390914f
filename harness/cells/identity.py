"""What names a cell: the hash of everything that changes its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.bench import PromptSet
from harness.cells.settings import BenchSettings
from harness.method import Method
from harness.models.stages import stages_identity
from harness.records import GenerationSettings

RECIPE = 1  # raised when the engine makes other pixels from the same configuration

Config = Mapping[str, Any]

# Of a model's config, what changes pixels besides the weights themselves.
_PIXEL_KEYS = ("dtype", "vae_dtype", "scheduler", "scheduler_config", "variant", "prediction_type",
               "max_sequence_length")


def model_identity(model: Config, weights: str) -> dict[str, Any]:
    """Return what of a model changes pixels; `weights` is the fingerprint of its files."""
    return {
        "name": model["name"],
        "weights": weights,
        **{key: model[key] for key in _PIXEL_KEYS if model.get(key) is not None},
        **({"stages": stages} if (stages := stages_identity(model)) else {}),
    }


def method_identities(methods: Sequence[Method], given: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what of the methods changes pixels; `given` are the keys of artifacts that replace training, by kind."""
    return [{**method.identity(), **({"artifact": given[method.kind]} if method.kind in given else {})}
            for method in methods]


def sampling_identity(
    bench: BenchSettings, generation: GenerationSettings, guidance: float | str, seed: int, prompts: PromptSet | None
) -> dict[str, Any]:
    """Return what of the bench and of how it is sampled changes pixels."""
    return {
        "bench": {"name": bench.name, "version": bench.version, "prompts": prompts.hash if prompts else None},
        "num_inference_steps": generation.num_inference_steps,
        "guidance_scale": guidance,
        "height": generation.height,
        "width": generation.width,
        "seed": seed,
        **({"row_seeds": "of seed 0"} if seed and _brings_seeds(prompts) else {}),
        **({"size": "row"} if bench.size == "row" else {}),
        **({"seeds": bench.seed_name} if bench.seed_name != bench.name else {}),
    }


def cell_identity(model: Config, methods: Sequence[Config], sampling: Config) -> dict[str, Any]:
    """Return everything that changes pixels, and nothing that does not."""
    return {"recipe": RECIPE, "model": model, "methods": list(methods), **sampling}


def ignores_guidance(model: Config) -> bool:
    """Return whether a guidance scale changes nothing: the model was distilled to have none."""
    return model.get("reads_guidance", True) is False


def by_row(bench: BenchSettings, model: Config) -> bool:
    """Return whether each prompt brings its own guidance scale."""
    return bench.guidance_scale == "row" and not ignores_guidance(model)


def row_guidance(bench: BenchSettings) -> str:
    """Name guidance scales that the prompts bring, between the bench's bounds."""
    return f"row, from {bench.guidance_floor:g} to {bench.guidance_cap:g}"


def _brings_seeds(prompts: PromptSet | None) -> bool:
    return prompts is not None and any(row.seed is not None for row in prompts.rows)
