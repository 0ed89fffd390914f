"""Types of the settings of models, benches and trackers: one table each, looked at when a command is composed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.errors import InvalidValueError

_WORDS: Mapping[str, tuple[type, ...]] = {
    "text": (str,), "number": (int, float), "integer": (int,), "true or false": (bool,), "list": (list,),
    "mapping": (Mapping,), "text or list": (str, list), "number or text": (int, float, str),
}  # fmt: skip

MODEL: Mapping[str, str] = {
    "name": "text", "family": "text", "source": "text", "revision": "number or text", "variant": "text",
    "dtype": "text",
    "vae_dtype": "text", "scheduler": "text", "prediction_type": "text", "license": "text", "how_to_get": "text",
    "path": "text", "loader": "text", "needs_loader": "text", "unet": "text", "text_encoder": "text",
    "size": "integer", "num_inference_steps": "integer", "batch_size": "integer", "guidance_scale": "number",
    "max_sequence_length": "integer", "first_size": "integer", "stage": "integer", "params": "number",
    "download_gb": "number", "weights_gb": "number", "tflop_per_step": "number", "lora_scale": "number",
    "download": "true or false", "gated": "true or false", "compile": "true or false",
    "channels_last": "true or false", "vae_slicing": "true or false", "reads_guidance": "true or false",
    "negative_branch": "true or false", "fallbacks": "list", "without": "list", "stages": "list",
    "evaluators": "text or list", "throughput": "mapping", "concepts": "mapping", "lora": "text or list",
}  # fmt: skip
BENCH: Mapping[str, str] = {
    "name": "text", "card": "text", "variant": "number or text", "file": "text", "columns": "mapping",
    "version": "integer",
    "repeats": "integer", "num_inference_steps": "integer", "guidance_scale": "number or text",
    "size": "number or text", "unsafe_content": "true or false", "primary": "mapping", "evaluators": "text or list",
    "reference": "mapping", "images": "text", "pattern": "text", "image_column": "text", "seed_name": "text",
    "attack": "text", "attacks": "text", "attacked_column": "text",
}  # fmt: skip
TRACKER: Mapping[str, str] = {"name": "text", "mode": "text", "project": "text", "entity": "text",
                              "images": "integer", "upload_images": "true or false"}


def check_types(group: str, config: Mapping[str, Any], types: Mapping[str, str]) -> None:
    """Refuse a setting of another type than its table says; null is for what is not set. Raises InvalidValueError."""
    for key, kind in types.items():
        value = config.get(key)
        if value is not None and not is_of(value, kind):
            raise InvalidValueError(f"{group}.{key}={str(value)[:80]}: {_article(kind)} is needed.")
    for key, value in (config.get("throughput") or {}).items() if group == "model" else ():
        wanted = "number" if key == "steps_per_second" else "text"
        if not is_of(value, wanted) or value == 0:
            raise InvalidValueError(f"model.throughput.{key}={str(value)[:80]}: {_article(wanted)} is needed.")


def is_of(value: Any, kind: str) -> bool:
    """Return whether a value is of a kind of the tables; numbers are finite, and true is no number."""
    if isinstance(value, bool) or kind == "true or false":
        return isinstance(value, bool) and kind == "true or false"
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, _WORDS[kind]) and not (isinstance(value, str) and "\0" in value)


def _article(kind: str) -> str:
    return kind if kind == "true or false" else f"{'an' if kind == 'integer' else 'a'} {kind}"
