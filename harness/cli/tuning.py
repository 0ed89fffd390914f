"""A sweep whose values Optuna chooses: each trial is a plan and a run like any other, and its metrics are the answer.

`hydra/sweeper=optuna` with the keys of Hydra's own Optuna plug-in, which holds on to Optuna 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from annotated_types import Ge, Le
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from harness.cells.job import Job
from harness.cells.store import CellStore
from harness.cli.compose import Composer
from harness.cli.evaluator_configs import names
from harness.cli.sweeps import from_params, parse, values_of
from harness.declared import Declared
from harness.errors import HarnessError, InvalidValueError, MissingResourceError, unknown_name
from harness.lib.streams import terminal
from harness.lib.targets import build
from harness.run import make_cells, run
from harness.setting_types import OneOrMore, Text

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

OBJECTIVES = "objectives"
FAILED = 1  # what a run returns where cells failed, and the others are there
Direction = Literal["minimize", "maximize"]
DIRECTIONS = get_args(Direction)
Trials = Annotated[int, Ge(1), Le(1_000_000)]


@dataclass(frozen=True)
class Optuna(Declared):
    """The settings of hydra.sweeper; `direction` is one for each objective."""

    settings_of: ClassVar[str] = "hydra.sweeper"

    sampler: Mapping[str, Any]
    direction: OneOrMore[Direction] = ("minimize",)
    n_trials: Trials = 20
    n_jobs: Trials = 1
    storage: Text | None = None
    study_name: Text | None = None
    params: Mapping[str, Any] | None = None

    @property
    def directions(self) -> list[Direction]:
        return list(self.direction)

    def study(self) -> Study:
        """Return the study, with the trials that its storage holds."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(storage=self.storage, study_name=self.study_name, sampler=self._sampler(0),
                                    directions=self.directions, load_if_exists=True)
        study.sampler = self._sampler(len(study.trials))
        return study

    def _sampler(self, done: int) -> BaseSampler:
        """Return the sampler; after trials of an earlier run with another seed, or it would choose those again."""
        from optuna.samplers import BaseSampler

        seed = self.sampler.get("seed")
        moved = {"seed": seed + done} if isinstance(seed, int) else {}
        sampler: BaseSampler = build({"name": "hydra.sweeper.sampler", **self.sampler, **moved}, BaseSampler)
        return sampler


def tune(composer: Composer, given: Mapping[str, Any], command: Sequence[str]) -> int:
    """Run the trials of a search and print the best.

    Return 1 where a trial has no value of an objective, what a run returns that was stopped, else 0.
    """
    _check_installed()
    settings = Optuna.from_config({key: value for key, value in given.items() if key != "_target_"})
    overrides = [*from_params(settings.params or {}, composer.overrides, "hydra.sweeper.params",
                              composer.configs.loader), *composer.overrides]
    space = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
    fixed = [override for override in overrides if not override.is_sweep_override()]
    if not space:
        raise InvalidValueError("nothing is searched.", "hydra.sweeper.params={method.strength:'interval(0,2)'}")
    base = composer.job(fixed)
    objectives = objectives_of(base)
    if len(objectives) != len(settings.directions):
        raise InvalidValueError(f"hydra.sweeper.direction has {len(settings.directions)} values and there are "
                                f"{len(objectives)} objectives: {', '.join(objectives)}.", "Set one for each.")
    if base.settings["mode"] == "plan":
        return run([base], command, [f"hydra/sweeper=optuna runs {settings.n_trials} trials like this one, "
                                     f"{settings.n_jobs} at a time, over {', '.join(space)}"])
    study, code = settings.study(), 0
    for trials in _batches(study, space, settings):
        jobs = [composer.job([*fixed, *_chosen(trial, composer)]) for trial in trials]
        _say_trials(trials)
        if (ended := run(jobs, command)) > FAILED:  # stopped, or Ray was lost
            return ended
        for trial, job in zip(trials, jobs, strict=True):
            code |= _tell(study, trial, _values(job, objectives, settings.directions))
    _say_best(study, objectives)
    return code


def _check_installed() -> None:
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        raise MissingResourceError("hydra/sweeper=optuna needs Optuna, which is not installed.",
                                   'pip install optuna, or the harness as ".[optuna]".') from None


def objectives_of(job: Job) -> list[str]:
    """Return the metrics that a search is for: as `objectives` says, else those that head the bench."""
    primary = job.bench.get("primary") or {}
    chosen = names(OBJECTIVES, job.settings.get(OBJECTIVES))
    return chosen or [str(primary[kind]) for kind in ("safety", "fidelity") if primary.get(kind)]


def distribution(override: Override) -> BaseDistribution:
    """Return what Optuna draws a setting's value from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    whole = isinstance(value, IntervalSweep | RangeSweep) and all(
        isinstance(end, int) for end in (value.start, value.end if isinstance(value, IntervalSweep) else value.stop))
    if isinstance(value, IntervalSweep):
        kind: Any = IntDistribution if whole else FloatDistribution
        try:
            return kind(value.start, value.end, log="log" in value.tags)
        except ValueError as error:
            raise InvalidValueError(f"'{override.input_line}': {error}") from None
    if isinstance(value, RangeSweep) and whole and isinstance(value.step, int) and not value.shuffle and value.step > 0:
        last = list(value.range())[-1:]
        if last:
            return IntDistribution(int(value.start or 0), int(last[0]), step=value.step)
    return CategoricalDistribution(values_of(override))


def _batches(study: Study, space: dict[str, BaseDistribution], settings: Optuna) -> Iterator[list[Trial]]:
    """Yield the trials that are still to be done, those together that run together."""
    todo = settings.n_trials - sum(trial.state.is_finished() for trial in study.trials)
    while todo > 0:
        count = min(todo, settings.n_jobs)
        yield [study.ask(space) for _ in range(count)]
        todo -= count


def _chosen(trial: Trial, composer: Composer) -> list[Override]:
    return [parse(f"{name}={value}", composer.configs.loader) for name, value in trial.params.items()]


def _values(job: Job, objectives: Sequence[str], directions: Sequence[str]) -> list[float] | None:
    """Return a complete cell's metrics; None if one is unknown. Raises HarnessError for one that is the other way.

    The rate of an incomplete cell may be low because images are missing: it is no value.
    """
    cell = make_cells([job]).cells[0]
    summary = CellStore(cell.folder, cell.cell_id).read_summary() or {}
    if summary.get("status") != "complete":
        return None
    metrics = summary.get("metrics") or {}
    values = []
    for name, direction in zip(objectives, directions, strict=True):
        if metrics and name not in metrics:
            raise unknown_name("metric of this bench", name, metrics)
        metric = metrics.get(name) or {}
        better = DIRECTIONS[bool(metric.get("higher_is_better"))]
        if metric and better != direction:
            raise HarnessError(f"{name} is to be {better}d, and hydra.sweeper.direction says {direction}.")
        values.append(metric.get("value"))
    return None if None in values else [float(value) for value in values if value is not None]


def _tell(study: Study, trial: Trial, values: list[float] | None) -> int:
    """Tell Optuna of a trial; return 1 where it has no values."""
    from optuna.trial import TrialState

    study.tell(trial, values, state=TrialState.COMPLETE if values else TrialState.FAIL)
    return 0 if values else 1


def _say_trials(trials: Sequence[Trial]) -> None:
    for trial in trials:
        terminal().print(f"trial {trial.number}: {_words(trial.params)}")


def _words(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in params.items())


def _say_best(study: Study, objectives: Sequence[str]) -> None:
    console = terminal()
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    if failed:
        console.print(f"{len(failed)} of {len(study.trials)} trials have no value of {' or '.join(objectives)}")
    for trial in study.best_trials:
        values = ", ".join(f"{name} {value:.4g}" for name, value in zip(objectives, trial.values, strict=True))
        console.print(f"best: trial {trial.number}: {values}: {_words(trial.params)}")
