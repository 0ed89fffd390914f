"""What a model's config may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from annotated_types import Ge, Le

from harness.declared import Declared, declared
from harness.errors import InvalidValueError
from harness.setting_types import AnyText, GuidanceScale, Number, Steps

Pixels = Annotated[int, Ge(8), Le(8192)]
Items = tuple[Any, ...]  # what they hold is checked where it is read
RATE = "steps_per_second"


@dataclass(frozen=True)
class ModelSettings(Declared):
    """The settings of a model that the harness reads; null is for what is not set."""

    settings_of: ClassVar[str] = "model"

    name: AnyText | None = None
    family: AnyText | None = None
    source: AnyText | None = None
    revision: AnyText | Number | None = None
    variant: AnyText | None = None
    dtype: AnyText | None = None
    vae_dtype: AnyText | None = None
    scheduler: AnyText | None = None
    prediction_type: AnyText | None = None
    license: AnyText | None = None
    how_to_get: AnyText | None = None
    path: AnyText | None = None
    loader: AnyText | None = None
    needs_loader: AnyText | None = None
    unet: AnyText | None = None
    text_encoder: AnyText | None = None
    lora: AnyText | Items | None = None
    lora_scale: Annotated[Number, Ge(-10), Le(10)] | None = None
    size: Pixels | None = None
    first_size: int | None = None
    stage: int | None = None
    num_inference_steps: Steps | None = None
    batch_size: Annotated[int, Ge(1)] | None = None
    guidance_scale: GuidanceScale | None = None
    max_sequence_length: int | None = None
    params: Number | None = None
    download_gb: Number | None = None
    weights_gb: Number | None = None
    tflop_per_step: Number | None = None
    throughput: Mapping[str, Number | AnyText] | None = None
    download: bool | None = None
    gated: bool | None = None
    compile: bool | None = None
    channels_last: bool | None = None
    vae_slicing: bool | None = None
    reads_guidance: bool | None = None
    negative_branch: bool | None = None
    fallbacks: Items | None = None
    without: Items | None = None
    stages: Items | None = None
    evaluators: AnyText | Items | None = None
    concepts: Mapping[str, Any] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read what is declared here; a model's config may say more, for methods. Raises HarnessError."""
        return cls(**{name: config[name] for name in declared(cls) if name in config})

    def __post_init__(self) -> None:
        for key, value in (self.throughput or {}).items():
            if isinstance(value, str) == (key == RATE) or value == 0:
                needed = "a number" if key == RATE else "a text"
                raise InvalidValueError(f"model.throughput.{key}={str(value)[:80]}: expected {needed}.")
