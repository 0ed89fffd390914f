"""One cell as a command asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.cells.proposed_sampling import Sampling

Config = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One cell as asked for: settings, model, methods (left to right), bench and evaluators, all resolved."""

    settings: Config
    model: Config
    methods: tuple[Config, ...]
    bench: Config
    evaluators: tuple[Config, ...]
    baseline: Config | None
    before: Config | None = None  # the bench whose prompts this one's attack
    method_overrides: Config = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)  # what of `model` is as a method's release samples
