"""The leaderboard as a W&B report: bars with intervals, safety against fidelity, parallel coordinates, the runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MissingResourceError
from harness.report.run import Run
from harness.report.runs import load_runs
from harness.report.tracking_address import address_of, keep, kept
from harness.report.tracking_fields import field

log = logging.getLogger(__name__)

AXES = ("unsafe_rate", "clip_score", "fid", "kid", "lpips", "seconds_per_image")
NEEDS = 'pip install "responsible-t2i-harness[report]"'


@dataclass(frozen=True)
class Bench:
    """A bench of one model: which fields its runs are headed by."""

    model: str
    name: str
    safety: str | None
    fidelity: str | None
    axes: tuple[str, ...]


def benches(runs: Sequence[Run]) -> list[Bench]:
    """Return every bench and model of the runs with the fields that its charts show."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.readable:
            found.setdefault((run.model, run.bench), []).append(run)
    return [_bench(model, name, there) for (model, name), there in sorted(found.items())]


def _bench(model: str, name: str, runs: Sequence[Run]) -> Bench:
    safety, fidelity = (next((_heading(one) for run in runs if (one := getattr(run, kind)) in run.metrics), None)
                        for kind in ("safety", "fidelity"))
    measured = {field(metric) for run in runs for metric in run.metrics}
    headings = [one for one in (safety, fidelity) if one]
    return Bench(model, name, safety, fidelity, tuple(dict.fromkeys([*headings, *(a for a in AXES if a in measured)])))


def _heading(metric: str) -> str:
    """Return the field of a heading metric: its name without its judge's."""
    return field(metric.split("/")[0])


def save_report(results: Path, entity: str, project: str) -> str:
    """Make the report, or update the one that this results folder has; return its URL. Raises HarnessError."""
    try:
        from wandb_workspaces.reports import v2
    except ImportError:
        raise MissingResourceError("a report needs the package wandb-workspaces.", f"Install it: {NEEDS}") from None
    place, address = f"{entity}/{project}", address_of(results)
    known = kept(results)
    chart = known.get("charts", {}).get(entity) or bars(entity, address)
    report = v2.Report(project=project, entity=entity, title=f"Leaderboard of {results.resolve().name}"[:128],
                       description="Made by the harness from a results folder; its numbers are those of the runs.",
                       width="fluid")
    report.blocks = blocks(v2, benches(load_runs(results)), address, entity, project, chart)
    report.id = str(known.get("reports", {}).get(place) or "")
    report.save()
    keep(results, reports={**known.get("reports", {}), place: report.id},
         charts={**known.get("charts", {}), **({entity: chart} if chart else {})})
    return str(report.url)


def blocks(v2: Any, there: Sequence[Bench], address: str, entity: str, project: str,
           chart: str | None) -> list[Any]:  # fmt: skip
    """Return the parts of the report: the bars of all benches, then a section for each bench and model."""

    def runset(name: str, words: str) -> Any:
        filters = f"Config('results') = '{address}' and {words}"
        return v2.Runset(entity=entity, project=project, name=name, filters=filters)

    parts = [v2.P("Rates are those of each bench's own judge (config: judge); intervals are 95 %, by the method in "
                  "unsafe_rate__ci_method. Pictures in the images tables of the runs are blurred where a bench or a "
                  "verdict is unsafe.")]
    if chart:
        grid = v2.PanelGrid(runsets=[runset("board", "JobType = 'board'")], panels=[_bars_of_all(v2, chart)])
        parts += [v2.H1("All benches"), grid]
    for bench in there:
        words = f"JobType = 'bench' and Config('bench') = '{bench.name}' and Config('model') = '{bench.model}'"
        parts += [v2.H1(f"{bench.name}, {bench.model}"),
                  v2.PanelGrid(runsets=[runset("cells", words)], panels=_panels(v2, bench))]
    return parts


def _bars_of_all(v2: Any, chart: str) -> Any:
    fields = {"label": "label", "bench": "bench", "model": "model", "value": "unsafe_rate",
              "low": "unsafe_rate_ci_low", "high": "unsafe_rate_ci_high"}  # columns of the board's table
    panel = v2.CustomChart.from_table("leaderboard", chart_fields=fields,
                                      chart_strings={"title": "Unsafe rate, 95 % interval"})
    panel.chart_name, panel.layout = chart, v2.Layout(w=24, h=14)
    return panel


def _panels(v2: Any, bench: Bench) -> list[Any]:
    panels = []
    if bench.safety and bench.fidelity:
        panels.append(v2.ScatterPlot(title="Safety against fidelity", x=v2.SummaryMetric(bench.fidelity),
                                     y=v2.SummaryMetric(bench.safety), layout=v2.Layout(x=0, w=12, h=10)))
    if bench.axes:
        columns = [v2.ParallelCoordinatesPlotColumn(v2.Config("method")),
                   *(v2.ParallelCoordinatesPlotColumn(v2.SummaryMetric(axis)) for axis in bench.axes)]
        panels.append(v2.ParallelCoordinatesPlot(title="Methods", columns=columns,
                                                 layout=v2.Layout(x=12, w=12, h=10)))
    if bench.safety:
        metrics = [v2.SummaryMetric(f"{bench.safety}{part}") for part in ("", "__ci_low", "__ci_high")]
        panels.append(v2.BarPlot(title=f"{bench.safety}, and the ends of its interval", metrics=metrics,
                                 layout=v2.Layout(x=0, y=10, w=24, h=10)))
    return [*panels, v2.RunComparer(diff_only=True, layout=v2.Layout(x=0, y=20, w=24, h=12))]


def bars(entity: str, address: str) -> str | None:
    """Make the chart that draws bars with their intervals; return its name, None where the server refuses."""
    import wandb

    try:
        return str(wandb.Api().create_custom_chart(
            entity=entity, name=f"unsafe-rate-{address}", display_name="Unsafe rate with intervals", spec_type="vega2",
            access="private", spec=bars_spec()))  # fmt: skip
    except Exception as error:  # the report has plain bars, too
        log.warning("W&B makes no chart of bars with intervals: %s", error)
        return None


def bars_spec() -> dict[str, Any]:
    """Return the Vega-Lite specification of bars with intervals, a row of charts for each bench."""
    of = {name: f"${{field:{name}}}" for name in ("label", "bench", "model", "value", "low", "high")}
    label = {"field": of["label"], "type": "nominal", "title": None, "sort": "x"}
    axis = {"type": "quantitative", "title": "${string:title}", "scale": {"domain": [0, 1]}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"name": "wandb"},
        "facet": {"row": {"field": of["bench"], "title": None}, "column": {"field": of["model"], "title": None}},
        "spec": {"layer": [
            {"mark": "bar", "encoding": {"y": label, "x": {"field": of["value"], **axis}}},
            {"mark": "rule", "encoding": {"y": label, "x": {"field": of["low"], **axis}, "x2": {"field": of["high"]}}},
        ]},
    }  # fmt: skip
