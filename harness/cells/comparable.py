"""What a summary says of comparing: with which baselines, how images were made besides the method, of what part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.evaluator import Evaluator, SetEvaluator

_MADE_BY = ("recipe", "model", "bench", "seeds")
GIVEN = "given images"  # the recipe of images that were made elsewhere
Entry = dict[str, Any]  # cell, method, overrides, metrics: a record by name, distances: a record by name


def made_by(identity: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a cell's identity that no method changes, and the revision of the model's config."""
    conditions = {key: identity[key] for key in _MADE_BY if identity.get(key) is not None}
    revision = model.get("revision")
    return conditions | ({"revision": revision} if revision is not None else {})


def metrics_of(evaluator: Evaluator) -> tuple[str, ...]:
    """Return the names of an evaluator's main metrics, without the evaluator's own where several share one."""
    if isinstance(evaluator, SetEvaluator):
        return tuple(evaluator.metrics)
    return (f"unsafe_rate/{evaluator.name}",) if evaluator.kind == "verdict" else (evaluator.metric,)


def named(method: str, overrides: Mapping[str, Any]) -> str:
    """Return what a baseline is called: its method, and the settings of it that the command line changed."""
    changed = ", ".join(f"{key}={value}" for key, value in overrides.items())
    return f"{method} ({changed})" if changed else method


def by_baseline(summary: Mapping[str, Any]) -> dict[str, Entry]:
    """Return a summary's comparisons by baseline. Summaries of earlier versions name it in each comparison.

    What is no record is left out.
    """
    entries: dict[str, Entry] = {}
    cell = mapping(summary.get("cell")).get("baseline_cell")
    for name, value in mapping(summary.get("comparisons")).items():
        if "metrics" in mapping(value):
            parts = {key: mapping(value.get(key)) for key in ("metrics", "distances", "overrides")}
            entries[str(name)] = {**value, **parts}
        elif mapping(value):
            label = str(value.get("baseline") or "baseline")
            entry: Entry = {"cell": cell, "method": label, "overrides": {}, "metrics": {}, "distances": {}}
            entries.setdefault(label, entry)["metrics"][str(name)] = value
    return entries


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value that was read where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def part(limit: int | None, n_prompts: int | None) -> str:
    """Return which prompts a limited run has: `first 64 of 4,703 prompts`; empty if the limit leaves none out."""
    if limit is None or (n_prompts is not None and limit >= n_prompts):
        return ""
    return f"first {limit:,} of {n_prompts:,} prompts" if n_prompts else f"first {limit:,} prompts"


def status_text(summary: Mapping[str, Any]) -> str:
    """Return a summary's status as people read it: a limited run is not complete without its limit."""
    prompts = mapping(summary.get("prompts"))
    limited = part(prompts.get("limit"), prompts.get("n_used"))
    return f"{summary['status']} ({limited})" if limited else str(summary["status"])
