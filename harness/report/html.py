"""The leaderboard page: one self-contained file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report import comparable
from harness.report import format as fmt
from harness.report.bars import CategoryPanel, category_panels, curve, strip
from harness.report.elsewhere import LEAD_ELSEWHERE, Left
from harness.report.findings import Finding, findings
from harness.report.grid import Grid, build_grid
from harness.report.published import LEAD, Beside, in_cells
from harness.report.run import Run
from harness.report.runs import counts
from harness.report.scatter import NARROW, WIDE, scatter
from harness.report.svg import BASELINE, colours
from harness.report.table import Column, Row, baselines, row_cell, shown_columns
from harness.report.tradeoff import Plot, plots, scored_places
from harness.report.variants import Variant


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


def page(
    rows: Sequence[Row], named: Mapping[str, Variant], images: int, published: Sequence[Beside] = (),
    elsewhere: Sequence[Left] = (),
) -> str:
    """Return the whole page for these rows, with `images` columns in each image grid."""
    runs = [row.run for row in rows]
    readable = [run for run in runs if run.readable]
    labels, compared = {row.run.cell_id: row.label for row in rows}, baselines(readable)
    palette = colours(run.method for run in runs)
    scatters = plots(readable, named)
    style, script = _asset("style.css"), _asset("page.js")
    template = _environment().get_template("page.html.j2")
    return template.render(
        rows=rows, columns=_columns(rows), colours=palette, strips=_strips(runs, palette),
        stories=_stories(readable, findings(readable, labels, scatters), scatters, palette),
        categories=_categories(readable, labels, palette), grids=_grids(readable, labels, images),
        trainings=_trainings(readable), counts=counts(runs), newest=max((run.created for run in runs), default=""),
        models=sorted({r.model for r in runs}), benches=sorted({r.bench for r in runs}),
        elsewhere=elsewhere, elsewhere_lead=LEAD_ELSEWHERE,
        published=published, published_cells=in_cells(published), published_lead=LEAD,
        style=Markup(style), script=Markup(script), policy=_policy(style, script), fmt=fmt, row_cell=row_cell,
        based={row.run.cell_id for row in rows if row.base_of or (not compared and row.run.name == BASELINE)},
        compared=compared, n_limited=sum(run.limit is not None for run in readable),
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report", "assets"),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters["svg"] = Markup
    return environment


def _asset(name: str) -> str:
    return resources.files("harness.report").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return a policy that allows this very style and script and images inside the page; nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_hash, script_hash = hashes
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _strips(runs: Sequence[Run], palette: Mapping[str, str]) -> dict[str, str]:
    metrics = {run.cell_id: (run.metric(run.unsafe), run.method) for run in runs}
    return {cell_id: strip(metric, palette[method]) for cell_id, (metric, method) in metrics.items() if metric}


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns to show; one model needs none of its own, it stands below the bench."""
    one_model = len({row.run.model for row in rows}) == 1
    return [column for column in shown_columns(rows) if not (one_model and column.key == "model")]


def _stories(
    runs: Sequence[Run], findings: Sequence[Finding], scatters: Sequence[Plot], palette: Mapping[str, str]
) -> list[Story]:
    """Put the findings beside the plots of their model, bench and ranking."""
    told, drawn = defaultdict(list), defaultdict(list)
    for finding in findings:
        told[finding.model, finding.bench, finding.group].append(finding)
    for plot in scatters:
        wide, narrow = scatter(plot, palette, WIDE), scatter(plot, palette, NARROW)
        drawn[plot.model, plot.safety_bench, plot.group].append(DrawnPlot(plot, wide, narrow))
    stories = []
    for (model, bench), there in _by_place(runs).items():
        names = comparable.group_names([run for run in there if run.safety])
        rankings = comparable.groups([run for run in there if run.safety])
        for ranking in sorted(rankings, key=len, reverse=True):  # the largest is told first
            place = (model, bench, comparable.group(ranking[0]))
            first = {item.plot.fidelity_bench: item for item in reversed(drawn[place])}
            more = tuple(item for item in drawn[place] if item is not first[item.plot.fidelity_bench])
            plots_shown = tuple(reversed(first.values()))
            if told[place] or drawn[place]:
                stories.append(Story(model, bench, names[place[2]], tuple(told[place]), plots_shown, more))
    return stories


def _by_place(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.model, run.bench].append(run)
    return dict(sorted(groups.items()))


def _categories(runs: Sequence[Run], labels: Mapping[str, str], palette: Mapping[str, str]) -> list[Categories]:
    categories = []
    scored = scored_places(runs)
    for (model, bench), there in _by_place(runs).items():
        if (model, bench) not in scored:
            continue
        names = comparable.group_names(there)
        for ranking in comparable.groups(there):
            panels = category_panels(ranking, labels, palette)
            measure = next((fmt.by_whom(run.safety) for run in ranking if run.safety), "")
            place = (model, bench, names[comparable.group(ranking[0])], measure)
            categories += [Categories(*place, tuple(panels))] if panels else []
    return categories


def _grids(runs: Sequence[Run], labels: Mapping[str, str], count: int) -> list[Grid]:
    grids = []
    for there in _by_place(runs).values():
        ordered = sorted(there, key=lambda run: (run.method != BASELINE, labels[run.cell_id]))
        grids.append(build_grid(ordered, labels, count))
    return [grid for grid in grids if grid]


def _trainings(runs: Sequence[Run]) -> list[Training]:
    trainings: dict[tuple[str, str, str], Training] = {}
    for run in runs:
        for method, data in (run.summary.get("training") or {}).items():
            if not isinstance(data, Mapping):
                continue
            losses, seconds = data.get("losses") or [], data.get("seconds")
            known = seconds if isinstance(seconds, int | float) else None
            key = (run.model, str(method), str(data.get("hash") or ""))
            trainings.setdefault(key, Training(*key[:2], known, key[2], len(losses), curve(losses)))
    return [trainings[key] for key in sorted(trainings)]
