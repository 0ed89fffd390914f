"""The leaderboard page: one self-contained file that needs no network.

Its table can be read without a script. What opens behind a number, and the plots that start folded, are data that the
page turns into elements when they are asked for.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report import format as fmt
from harness.report.bars import strip
from harness.report.details import details, embedded
from harness.report.elsewhere import LEAD_ELSEWHERE, Left
from harness.report.findings import findings
from harness.report.grid import Room
from harness.report.legend import legend
from harness.report.matrix import matrices
from harness.report.published import LEAD, Beside, in_cells
from harness.report.run import Run
from harness.report.runs import counts
from harness.report.sections import DrawnPlot, Story, categories, grids, stories, trainings
from harness.report.svg import BASELINE, colours
from harness.report.table import Column, Row, baselines, row_cell, shown_columns
from harness.report.tradeoff import plots
from harness.report.variants import Variant

SCRIPTS = ("page.js", "details.js")


def page(
    rows: Sequence[Row], named: Mapping[str, Variant], images: int, published: Sequence[Beside] = (),
    elsewhere: Sequence[Left] = (),
) -> str:
    """Return the whole page for these rows, with up to `images` columns in each image grid."""
    runs = [row.run for row in rows]
    readable = [run for run in runs if run.readable]
    labels, compared = {row.run.cell_id: row.label for row in rows}, baselines(readable)
    palette = colours(run.method for run in runs)
    scatters = plots(readable, named)
    told = stories(readable, findings(readable, labels, scatters), scatters, palette)
    environment, drawn = _environment(), _Folded()
    template = environment.get_template("page.html.j2")
    return template.render(
        rows=rows, columns=_columns(rows), colours=palette, strips=_strips(runs, palette), legend=legend(rows),
        matrices=matrices(rows, named), stories=told, folded=drawn.of,
        categories=categories(readable, labels, palette), grids=grids(readable, labels, images), images=images,
        n_columns=Room.of(len(readable), images).columns,
        trainings=trainings(readable), counts=counts(runs), newest=max((run.created for run in runs), default=""),
        models=sorted({r.model for r in runs}), benches=sorted({r.bench for r in runs}),
        elsewhere=elsewhere, elsewhere_lead=LEAD_ELSEWHERE,
        published=published, published_cells=in_cells(published), published_lead=LEAD, fmt=fmt, row_cell=row_cell,
        based={row.run.cell_id for row in rows if row.base_of or (not compared and row.run.name == BASELINE)},
        compared=compared, n_limited=sum(run.limit is not None for run in readable),
        data=lambda: Markup(embedded({**details(rows, palette), "plots": drawn.texts(environment)})),
        **_own_code(),
    )  # fmt: skip


class _Folded:
    """The plots that start folded: the page names them by number and holds them as data."""

    def __init__(self) -> None:
        self._plots: list[DrawnPlot] = []

    def of(self, story: Story) -> str:
        first = len(self._plots)
        self._plots += story.more
        return " ".join(str(place) for place in range(first, len(self._plots)))

    def texts(self, environment: Environment) -> list[str]:
        template = environment.get_template("figure.html.j2")
        return [template.render(item=plot) for plot in self._plots]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report", "assets"),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters["svg"] = Markup
    return environment


def _own_code() -> dict[str, Any]:
    """Return the page's style and script, and a policy that allows nothing else but images inside the page."""
    style, script = _asset("style.css"), "\n".join(map(_asset, SCRIPTS))
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_hash, script_hash = hashes
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"style": Markup(style), "script": Markup(script), "policy": policy}


def _asset(name: str) -> str:
    return resources.files("harness.report").joinpath("assets", name).read_text(encoding="utf-8")


def _strips(runs: Sequence[Run], palette: Mapping[str, str]) -> dict[str, str]:
    metrics = {run.cell_id: (run.metric(run.unsafe), run.method) for run in runs}
    return {cell_id: strip(metric, palette[method]) for cell_id, (metric, method) in metrics.items() if metric}


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns to show; one model needs none of its own, it stands below the bench."""
    one_model = len({row.run.model for row in rows}) == 1
    return [column for column in shown_columns(rows) if not (one_model and column.key == "model")]
