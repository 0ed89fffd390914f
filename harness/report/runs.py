"""Run folders read back: one `Run` per cell, a broken one included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.cells.comparable import by_baseline
from harness.errors import MissingResourceError
from harness.lib.reading import UnreadableFileError, read_json, read_yaml
from harness.records import Comparison, Metric
from harness.report.against import Against, with_families
from harness.report.run import Data, Run
from harness.report.trainings import pooled

SCHEMA = 1
STATUSES = ("complete", "incomplete")


class BrokenSummaryError(ValueError):
    """A summary that does not follow its schema; the message says where."""


def load_runs(results: Path) -> list[Run]:
    """Read every run under `results/runs/<model>/<method>/<bench>/<cell id>`, sorted by path."""
    if not results.is_dir():
        raise MissingResourceError(f"results folder '{results}' does not exist.", "Run `python -m harness` first.")
    cells = [path for path in sorted(results.glob("runs/*/*/*/*")) if path.is_dir()]
    if not cells:
        raise MissingResourceError(f"no runs in '{results}'.", "Run `python -m harness` first.")
    return adjusted(pooled([load_run(path) for path in cells]))


def adjusted(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with p values that are corrected for the number of methods beside them."""
    comparisons = with_families([(run.model, run.bench) for run in runs], [run.against for run in runs])
    return [replace(run, against=against) for run, against in zip(runs, comparisons, strict=True)]


def load_run(folder: Path) -> Run:
    """Read one run folder. A summary that is missing or broken gives a run that says so."""
    model, method, bench, cell_id = folder.parts[-4:]
    path = folder / "summary.json"
    try:
        summary = read_json(path)
        run = _of_cell(cell_id, run_from_summary(summary)) if summary is not None else None
    except (UnreadableFileError, BrokenSummaryError) as error:
        reason = error.reason if isinstance(error, UnreadableFileError) else str(error)
        return Run(cell_id, model, method, bench, "broken", folder, (f"summary.json: {' '.join(reason.split())}",))
    if run is None:
        return Run(
            cell_id,
            model,
            method,
            bench,
            "unfinished",
            folder,
            ("no summary.json: still running, or interrupted",),
        )
    notes: list[str] = []
    cell = _side_file(folder / "cell.yaml", notes)
    provenance = _side_file(folder / "provenance.json", notes)
    problems = run.problems + tuple(notes)
    return replace(run, folder=folder, cell=cell, provenance=provenance, problems=problems)


def _of_cell(cell_id: str, run: Run) -> Run:
    """Return the run of a folder. Raises BrokenSummaryError if its summary is another cell's."""
    if run.cell_id != cell_id:
        raise BrokenSummaryError(f"it belongs to cell {run.cell_id[:40]}")
    return run


def run_from_summary(summary: Data) -> Run:
    """Check a summary and turn it into a run without a folder. Raises BrokenSummaryError."""
    if summary.get("schema") != SCHEMA:
        raise BrokenSummaryError(f"schema is {summary.get('schema')!r}, expected {SCHEMA}")
    cell = _mapping(summary.get("cell"), "cell")
    names = [cell.get(key) for key in ("id", "model", "method", "bench")]
    if not all(isinstance(name, str) and name for name in names):
        raise BrokenSummaryError("cell needs id, model, method and bench")
    if summary.get("status") not in STATUSES:
        raise BrokenSummaryError(f"status is {summary.get('status')!r}, expected one of {', '.join(STATUSES)}")
    _check_parts(summary, cell)
    cell_id, model, method, bench = (str(name) for name in names)
    run = Run(
        cell_id, model, method, bench, str(summary["status"]),
        problems=tuple(str(reason) for reason in summary.get("incomplete") or ()),
        metrics={str(k): read_metric(k, v) for k, v in _mapping(summary.get("metrics"), "metrics").items()},
        against=read_against(summary),
        summary=summary,
    )  # fmt: skip
    distances = run.baseline.distances if run.baseline else {}
    return replace(run, metrics={**distances, **run.metrics})


def read_against(summary: Data) -> dict[str, Against]:
    """Read `comparisons`: those with each baseline, or as earlier versions wrote them, with one."""
    against = {}
    for name, value in _mapping(summary.get("comparisons") or {}, "comparisons").items():
        for key in ("metrics", "distances"):
            _mapping(_mapping(value, f"comparison {name}").get(key) or {}, f"{key} of comparison {name}")
    for label, entry in by_baseline(summary).items():
        against[label] = Against(
            label,
            str(entry["cell"]) if entry.get("cell") else None,
            {str(name): read_comparison(name, data) for name, data in entry["metrics"].items()},
            {str(name): read_metric(name, data) for name, data in entry["distances"].items()},
        )
    return against


def _check_parts(summary: Data, cell: Data) -> None:
    """Refuse parts of a summary that are not what reports take them for."""
    parts = {key: _mapping({} if summary.get(key) is None else summary[key], key)
             for key in ("prompts", "images", "primary", "evaluators", "training", "comparisons")}
    _mapping(cell.get("settings") or {}, "cell.settings")
    for key in ("evaluators", "training"):
        for name, one in parts[key].items():
            _mapping(one, f"{key}.{name}")
    for name, one in parts["training"].items():
        if not isinstance(one.get("losses") or [], list):
            raise BrokenSummaryError(f"training.{name}: losses is {type(one['losses']).__name__}, expected a list")
        _number(f"training.{name}", "seconds", one.get("seconds"))
    for name, one in parts["images"].items():
        _count("images", str(name), one)
    if not all(one is None or isinstance(one, str) for one in parts["primary"].values()):
        raise BrokenSummaryError("primary: expected names of metrics")
    if not isinstance(summary.get("incomplete") or [], list):
        raise BrokenSummaryError(f"incomplete is {type(summary['incomplete']).__name__}, expected a list")


def read_metric(name: str, data: Any) -> Metric:
    """Read one entry of `metrics`. What is not finite becomes None: it is not a number."""
    data = _mapping(data, name)
    if not isinstance(data.get("higher_is_better"), bool):
        raise BrokenSummaryError(f"{name}: higher_is_better must be true or false")
    keys = ("value", "ci_low", "ci_high", "worst_low", "worst_high")
    value, low, high, worst_low, worst_high = (_number(name, key, data.get(key)) for key in keys)
    n, n_unknown = (_count(name, key, data.get(key)) for key in ("n", "n_unknown"))
    note = None if data.get("note") is None else str(data["note"])
    better, method = data["higher_is_better"], _said(data, "ci_method")
    return Metric(value, low, high, n, n_unknown, better, worst_low, worst_high, note, method)


def read_comparison(name: str, data: Any) -> Comparison:
    """Read one entry of `comparisons`."""
    data = _mapping(data, name)
    number = {key: _number(name, key, data.get(key)) for key in ("difference", "ci_low", "ci_high", "p_value")}
    known = {key: math.nan if value is None else value for key, value in number.items()}
    return Comparison(
        str(data.get("baseline") or ""), known["difference"], known["ci_low"], known["ci_high"], known["p_value"],
        _count(name, "n_pairs", data.get("n_pairs")), str(data.get("test") or ""),
        before=_number(name, "before", data.get("before")),
        ci_method=_said(data, "ci_method"), note=_said(data, "note"),
    )  # fmt: skip


def _said(data: Data, key: str) -> str | None:
    return None if data.get(key) is None else str(data[key])


def _mapping(value: Any, where: str) -> Data:
    if not isinstance(value, Mapping):
        raise BrokenSummaryError(f"{where} is {type(value).__name__}, expected an object")
    return value


def _number(name: str, key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BrokenSummaryError(f"{name}: {key} is {value!r}, expected a number or null")
    return float(value) if math.isfinite(value) else None


def _count(name: str, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BrokenSummaryError(f"{name}: {key} is {value!r}, expected a count")
    return value


def _side_file(path: Path, notes: list[str]) -> Data:
    """Read cell.yaml or provenance.json; what cannot be read is noted, the numbers stand."""
    try:
        content = read_json(path) if path.suffix == ".json" else read_yaml(path)
    except UnreadableFileError as error:
        notes.append(f"{path.name}: {error.reason}")
        return {}
    if content is None:
        notes.append(f"{path.name}: missing")
    return content or {}


def counts(runs: Sequence[Run]) -> dict[str, int]:
    """Return how many runs have each status."""
    return {status: sum(run.status == status for run in runs) for status in sorted({run.status for run in runs})}
