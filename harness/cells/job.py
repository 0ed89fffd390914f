"""One cell as a command asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from harness.cells.followed import Followed
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
    protocol: Followed | None = None

    def with_methods(self, *methods: Config) -> Job:
        """Return the job of other methods, as their configs are, on the same model and bench."""
        return replace(self, methods=methods, method_overrides={}, sampling=self.sampling.unsaid())

    def on_bench(self, bench: Config, **settings: Any) -> Job:
        """Return the job of the same methods on another bench, with some settings of the run changed."""
        return replace(self, bench=bench, settings={**self.settings, **settings}, sampling=self.sampling.unsaid(),
                       protocol=None)
