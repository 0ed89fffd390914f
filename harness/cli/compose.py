"""From the command line's words to resolved configurations, one for each cell. Loads no model and no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra.core.override_parser.types import Override

from harness.cells.job import Job
from harness.cli.evaluator_configs import Config
from harness.cli.hydra_configs import PRIMARY, Composed, Configs, hydra_with, plain, unresolved
from harness.cli.hydra_keys import check_files, check_words, is_multirun, of_hydra, search_path, sweeper_of
from harness.cli.jobs import METHOD, JobMaker
from harness.cli.sweeps import combinations, from_params, parse, refuse_sweep, sweep_notes, values_of
from harness.errors import HarnessError, InvalidValueError

__all__ = ["Composer", "Job", "compose_jobs", "composer_of", "config_names", "sweep_notes"]

SHARED = ("mode", "results", "pool", "tracker", "leaderboard", "shard_size")  # one value for a whole sweep


def compose_jobs(words: Sequence[str], multirun: bool, config_dirs: Sequence[str] = (),
                 config_name: str | None = None) -> list[Job]:  # fmt: skip
    """Compose one job for each combination of the overrides. Raises HarnessError naming the nearest valid names."""
    with composer_of(words, config_dirs, config_name) as composer:
        if composer.search(multirun) is not None:  # its values are not known before it runs
            return [composer.job([one for one in composer.overrides if not one.is_sweep_override()])]
        return composer.jobs(multirun)


def config_names(group: str, config_dirs: Sequence[str] = ()) -> list[str]:
    """Return the names that a config group offers."""
    with hydra_with(config_dirs) as loader:
        return Configs(loader).options(group)


@contextmanager
def composer_of(words: Sequence[str], config_dirs: Sequence[str] = (), config_name: str | None = None
                ) -> Iterator[Composer]:
    """Read the words, and have what composes their jobs while Hydra knows where configs are."""
    check_words(words)
    places = [*config_dirs, *search_path(words)]
    if config_name is not None:
        with hydra_with(places) as loader:
            places += Configs(loader, config_name).search_path()
    with hydra_with(places) as loader:
        configs = Configs(loader, config_name)
        yield Composer(configs, [parse(word, loader) for word in words if not word.startswith("hydra.searchpath=")])


class Composer(JobMaker):
    """The words of a command, and the jobs that they and the sweeps of configs ask for."""

    def __init__(self, configs: Configs, overrides: Sequence[Override]) -> None:
        super().__init__(configs)
        self._checked: list[Composed] = []
        self.of_hydra = [override for override in overrides if of_hydra(override.key_or_group)]
        self.overrides = [_plainly(override) for override in overrides if override not in self.of_hydra]

    def search(self, multirun: bool) -> Config | None:
        """Return the settings of the sweeper that chooses values, such as Optuna; None if there is a plain sweep."""
        master = self.master(self.overrides)
        if master is None or not (multirun or is_multirun(master)) or sweeper_of(master) == "basic":
            return None
        settings: Config = plain(master.hydra.sweeper)
        return settings

    def jobs(self, multirun: bool) -> list[Job]:
        """Return the jobs of the words and of the sweeps that configs declare. Raises HarnessError."""
        each = self.each(multirun)
        self.read_methods(each)
        jobs = [self.job(overrides) for overrides in each]
        for key in SHARED:
            if any(job.settings.get(key) != jobs[0].settings.get(key) for job in jobs):
                raise HarnessError(f"'{key}' cannot be swept: all cells of a sweep share it.")
        return jobs

    def notes(self) -> list[str]:
        """Say which keys that the words add are read by nothing, once jobs are made."""
        return [f"+{key}: no setting of this name exists, and nothing refers to it" for key in self.unread]

    def each(self, multirun: bool) -> list[list[Override]]:
        """Return the overrides of each job, every job once: those of the words, and of the sweeps that configs declare.
        """
        sweeps = list(self._sweeps())
        if not (multirun or is_multirun(self.master(self.overrides))):
            for sweep in sweeps:
                refuse_sweep(sweep)
        every = [one for sweep in sweeps for one in combinations(sweep, self.configs.loader)]
        once = {tuple(sorted(f"{o.get_key_element()}={o.value()}" for o in one)): list(one) for one in every}
        return list(once.values())

    def master(self, overrides: Sequence[Override]) -> Composed | None:
        """Return the config that may declare sweeps and keys of Hydra's; None if no config of a user is part of it.
        """
        if not (self.of_hydra or self.configs.name != PRIMARY
                or any(override.key_or_group == "experiment" for override in overrides)):  # fmt: skip
            return None
        single = [o for o in overrides if self.chooses(o) and not o.is_sweep_override() and o.key_or_group != METHOD]
        choices = [word for override in single for word in self.choice(override)]
        composed = self.configs.whole([*choices, *(str(override.input_line) for override in self.of_hydra)])
        if composed not in self._checked:
            check_files(composed)
            self._checked.append(composed)
        return composed

    def _sweeps(self) -> Iterator[list[Override]]:
        """Yield a list of overrides for each sweep: of every experiment that is named, and of all that it declares."""
        named = [override for override in self.overrides if override.key_or_group == "experiment"]
        swept = named[-1:] if named and named[-1].is_sweep_override() else []
        others = [override for override in self.overrides if override not in swept]
        for experiment in swept:
            for name in values_of(experiment):
                yield from self._declared([*others, parse(f"experiment={name}", self.configs.loader)])
        if not swept:
            yield from self._declared(others)

    def _declared(self, overrides: Sequence[Override]) -> Iterator[list[Override]]:
        """Yield the sweeps that a config declares under hydra.sweeper.params and more_sweeps; one of none without."""
        master = self.master(overrides)
        params = plain(master.hydra.sweeper).get("params") if master else None
        more = unresolved(master.config).get("more_sweeps") if master else None
        if not isinstance(more, list | None):
            raise InvalidValueError("more_sweeps: a list of sweeps is needed, each a mapping of settings and values.")
        for where, sweep in (("hydra.sweeper.params", params), *(("more_sweeps", one) for one in more or ())):
            yield [*from_params({} if sweep is None else sweep, overrides, where, self.configs.loader), *overrides]


def _plainly(override: Override) -> Override:
    """Return +experiment=<name>, as other programs have it, as the choice that it is: the group is there already."""
    if override.key_or_group == "experiment" and override.is_add():
        return parse(f"experiment={override.get_value_string()}", override.config_loader)
    return override
