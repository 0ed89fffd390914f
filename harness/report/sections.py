"""The sections of the page beside its table: stories with their plots, categories, images, trainings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report import comparable
from harness.report import format as fmt
from harness.report.bars import CategoryPanel, category_panels, curve
from harness.report.findings import Finding
from harness.report.grid import Grid, Room, build_grid
from harness.report.run import Run
from harness.report.scatter import NARROW, WIDE, scatter
from harness.report.svg import BASELINE
from harness.report.tradeoff import Plot, scored_places


@dataclass(frozen=True)
class DrawnPlot:
    """A plot drawn twice: `wide` for a desk, `narrow` for a phone."""

    plot: Plot
    wide: str
    narrow: str


@dataclass(frozen=True)
class Story:
    """What one model, safety bench and ranking tell: the findings in words, one a baseline, and the plots.

    `ranking` says what sets it apart from the bench's other rankings; empty if there is only one.
    """

    model: str
    bench: str
    ranking: str
    findings: tuple[Finding, ...]
    plots: tuple[DrawnPlot, ...]  # one for each benign bench
    more: tuple[DrawnPlot, ...]  # the same benches, other fidelity metrics


@dataclass(frozen=True)
class Categories:
    model: str
    bench: str
    ranking: str
    measure: str
    panels: tuple[CategoryPanel, ...]


@dataclass(frozen=True)
class Training:
    """One training that the runs used: shown once, whoever shares it."""

    model: str
    method: str
    seconds: float | None
    hash: str
    n_steps: int
    svg: str


def stories(
    runs: Sequence[Run], findings: Sequence[Finding], scatters: Sequence[Plot], palette: Mapping[str, str]
) -> list[Story]:
    """Put the findings beside the plots of their model, bench and ranking."""
    told, drawn = defaultdict(list), defaultdict(list)
    for finding in findings:
        told[finding.model, finding.bench, finding.group].append(finding)
    for plot in scatters:
        wide, narrow = scatter(plot, palette, WIDE), scatter(plot, palette, NARROW)
        drawn[plot.model, plot.safety_bench, plot.group].append(DrawnPlot(plot, wide, narrow))
    made = []
    for (model, bench), there in _by_place(runs).items():
        names = comparable.group_names([run for run in there if run.safety])
        rankings = comparable.groups([run for run in there if run.safety])
        for ranking in sorted(rankings, key=len, reverse=True):  # the largest is told first
            place = (model, bench, comparable.group(ranking[0]))
            first = {item.plot.fidelity_bench: item for item in reversed(drawn[place])}
            more = tuple(item for item in drawn[place] if item is not first[item.plot.fidelity_bench])
            plots_shown = tuple(reversed(first.values()))
            if told[place] or drawn[place]:
                made.append(Story(model, bench, names[place[2]], tuple(told[place]), plots_shown, more))
    return made


def _by_place(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.model, run.bench].append(run)
    return dict(sorted(groups.items()))


def categories(runs: Sequence[Run], labels: Mapping[str, str], palette: Mapping[str, str]) -> list[Categories]:
    """Return the rates by category of each safety bench and ranking."""
    made: list[Categories] = []
    scored = scored_places(runs)
    for (model, bench), there in _by_place(runs).items():
        if (model, bench) not in scored:
            continue
        names = comparable.group_names(there)
        for ranking in comparable.groups(there):
            panels = category_panels(ranking, labels, palette)
            measure = next((fmt.by_whom(run.safety) for run in ranking if run.safety), "")
            place = (model, bench, names[comparable.group(ranking[0])], measure)
            made += [Categories(*place, tuple(panels))] if panels else []
    return made


def grids(runs: Sequence[Run], labels: Mapping[str, str], count: int) -> list[Grid]:
    """Return the grids of images with `count` columns, or fewer where they would make the page too large."""
    room = Room.of(len(runs), count)
    made = []
    for there in _by_place(runs).values():
        ordered = sorted(there, key=lambda run: (run.method != BASELINE, labels[run.cell_id]))
        made.append(build_grid(ordered, labels, room))
    return [grid for grid in made if grid]


def trainings(runs: Sequence[Run]) -> list[Training]:
    """Return the trainings that the runs used, each once."""
    made: dict[tuple[str, str, str], Training] = {}
    for run in runs:
        for method, data in (run.summary.get("training") or {}).items():
            if not isinstance(data, Mapping):
                continue
            losses, seconds = data.get("losses") or [], data.get("seconds")
            known = seconds if isinstance(seconds, int | float) else None
            key = (run.model, str(method), str(data.get("hash") or ""))
            made.setdefault(key, Training(*key[:2], known, key[2], len(losses), curve(losses)))
    return [made[key] for key in sorted(made)]
