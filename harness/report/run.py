"""One cell as reports see it: what its summary says, by the names that tables and plots ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.cells.comparable import mapping, named, part
from harness.records import Comparison, Metric
from harness.report.against import Against

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One cell as the reports see it. `status`: complete, incomplete, unfinished (no summary), broken."""

    cell_id: str
    model: str
    method: str
    bench: str
    status: str
    folder: Path | None = None
    problems: tuple[str, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    against: Mapping[str, Against] = field(default_factory=dict)
    trainings: tuple[Run, ...] = ()  # the runs, of several seeds or trainings, that a mean is of
    summary: Data = field(default_factory=dict)
    cell: Data = field(default_factory=dict)
    provenance: Data = field(default_factory=dict)

    @property
    def n_trainings(self) -> int:
        """How many trainings the numbers are of; 0 where training again would change nothing, or nothing tells."""
        made = {one.trained_as for one in self.trainings} - {None}
        return len(made) or int(bool(self.training))

    @property
    def trained_as(self) -> str | None:
        """What names its training: the content of its artifact where that is known, else its seed."""
        artifact = mapping(self.summary.get("cell")).get("artifact")
        return str(artifact or self.training.get("seed")) if self.training else None

    @property
    def seed(self) -> int | None:
        """The root seed; that of the first where the run is a mean over several. None if nothing tells."""
        if self.trainings:
            return self.trainings[0].seed
        seed = self._settings.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The root seeds that the numbers are of."""
        return tuple(sorted({run.seed for run in self.trainings or (self,) if run.seed is not None}))

    @property
    def training(self) -> Data:
        """What the summary says of its training; empty if training again would change nothing."""
        return mapping(mapping(self.summary.get("cell")).get("training"))

    @property
    def readable(self) -> bool:
        return bool(self.summary)

    @property
    def baseline(self) -> Against | None:
        """The baseline to use if only one is shown: that of the latest run, else the base model."""
        cell = (self.summary.get("cell") or {}).get("baseline_cell")
        known = [one for one in self.against.values() if cell and one.cell_id == cell]
        return known[0] if known else self.against.get("none") or next(iter(self.against.values()), None)

    @property
    def comparisons(self) -> Mapping[str, Comparison]:
        """The comparisons with `baseline`, by metric."""
        return self.baseline.comparisons if self.baseline else {}

    @property
    def name(self) -> str:
        """What the run is called where it is a baseline: its method and what the command line changed of it."""
        return named(self.method, mapping(self._settings.get("method_overrides")))

    @property
    def _settings(self) -> Data:
        return mapping(mapping(self.summary.get("cell")).get("settings"))

    @property
    def n_prompts(self) -> int | None:
        """How many prompts the bench has, less the excluded."""
        count = (self.summary.get("prompts") or {}).get("n_used")
        return count if isinstance(count, int) else None

    @property
    def limit(self) -> int | None:
        """The limit that was set, where it left prompts out."""
        limit = mapping(self.summary.get("prompts")).get("limit") or self._settings.get("limit")
        return limit if isinstance(limit, int) and (self.n_prompts is None or limit < self.n_prompts) else None

    @property
    def status_text(self) -> str:
        """The status as people read it: a limited run is not complete without its limit."""
        return f"{self.status} ({self.part})" if self.part else self.status

    @property
    def part(self) -> str:
        """Which prompts a limited run has; empty if it has all."""
        return part(self.limit, self.n_prompts)

    @property
    def safety(self) -> str | None:
        """The metric that this bench is scored by for safety, such as `unsafe_rate/hazard_judge`."""
        return (self.summary.get("primary") or {}).get("safety")

    @property
    def unsafe(self) -> str | None:
        """The unsafe rate to show: the primary one, else the first that was measured."""
        if self.safety is None or self.safety.startswith("unsafe_rate/"):
            return self.safety
        return next((name for name in self.metrics if name.startswith("unsafe_rate/")), None)

    @property
    def measures_safety(self) -> bool:
        """True if the bench measures safety, not fidelity on benign prompts."""
        return self.safety is not None and (self.unsafe_content or self.safety != self.unsafe)

    @property
    def fidelity(self) -> str | None:
        return (self.summary.get("primary") or {}).get("fidelity")

    @property
    def unsafe_content(self) -> bool:
        """True unless the summary says that the bench is harmless: if unknown, images stay blurred."""
        return bool((self.summary.get("prompts") or {}).get("unsafe_content", True))

    @property
    def statistics(self) -> int:
        """The version of the statistics behind its numbers and intervals; 1 if it does not say."""
        version = self.summary.get("statistics", 1)
        return version if isinstance(version, int) else 1

    @property
    def created(self) -> str:
        return str(self.provenance.get("created") or "")

    def metric(self, name: str | None) -> Metric | None:
        return self.metrics.get(name) if name else None

    def find(self, name: str) -> str | None:
        """Return the metric called `name`, else the first evaluator's: `clip_score/<evaluator>`."""
        if name in self.metrics:
            return name
        return next((metric for metric in self.metrics if metric.startswith(f"{name}/")), None)


def judge_name(run: Run, metric: str | None = None) -> str | None:
    """Return the evaluator of a metric, by default of the one that ranks the run; None if nothing tells."""
    metric = metric or run.safety or run.unsafe
    if metric is None:
        return None
    base, _, rest = metric.partition("/")
    known = mapping(run.summary.get("evaluators"))
    if rest:
        return rest.split("/")[0]
    return next((str(name) for name, one in known.items() if base in (mapping(one).get("metrics") or ())), None)
