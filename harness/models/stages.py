"""Models of several repositories: the pipelines that come after the first one, such as a cascade's enlargers.

`model.stages` lists them in order; `model.stage` says after which one to stop, 1 being the first. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import InvalidValueError, unknown_name

Config = Mapping[str, Any]

# What a stage may say. The first line is of its files, as of any model; the second changes pixels.
FILES = ("source", "revision", "fallbacks", "variant", "without", "download_gb", "gated", "license")
PIXELS = ("pipeline", "num_inference_steps", "guidance_scale", "noise_level", "size")


def stages_of(config: Config) -> tuple[Config, ...]:
    """Return the further stages that a model runs, each with the keys of a model config. Raises HarnessError."""
    listed = config.get("stages") or []
    if not isinstance(listed, (list, tuple)):
        raise InvalidValueError(f"model.stages={listed!r}: expected a list.")
    made = [_stage(config, entry, number) for number, entry in enumerate(listed, start=2)]
    return tuple(made[: _last(config, len(made) + 1) - 1])


def _last(config: Config, count: int) -> int:
    last = config.get("stage")
    if last is None:
        return count
    if not isinstance(last, int) or isinstance(last, bool) or not 1 <= last <= count:
        raise InvalidValueError(f"model.stage={last!r}: model {config.get('name')} has stages 1 to {count}.")
    return last


def _stage(config: Config, entry: Any, number: int) -> Config:
    if not isinstance(entry, Mapping) or not entry.get("source"):
        raise InvalidValueError(f"model.stages: stage {number} needs a source.")
    for key in entry:
        if key not in FILES + PIXELS:
            raise unknown_name("setting of model.stages", str(key), FILES + PIXELS)
    if not entry.get("pipeline"):
        raise InvalidValueError(f"model.stages: stage {number} needs a pipeline, the class in diffusers.")
    shared = {key: config.get(key) for key in ("family", "download", "dtype", "gated")}
    return {"revision": None, "variant": config.get("variant"), **shared, **entry,
            "name": f"{config.get('name')}, stage {number}"}


def with_stages(config: Config, stages: tuple[Config, ...]) -> Config:
    """Return a config whose further stages are `stages`, and whose size is the last one's if it has none itself."""
    if not config.get("stages"):
        return config
    first = config.get("first_size") or config.get("size")
    size = config.get("size") or (stages[-1].get("size") if stages else first)
    kept = [{key: stage[key] for key in FILES + PIXELS if key in stage} for stage in stages]
    return {**config, "stages": kept, "stage": len(kept) + 1, "size": size}


def stages_identity(config: Config) -> list[dict[str, Any]]:
    """Return what of the further stages changes pixels, beside their weights."""
    return [{key: stage[key] for key in PIXELS if stage.get(key) is not None} for stage in stages_of(config)]
