"""A method that learned from an evaluator is no fair test for it: where that judge scores it, the number says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from harness.errors import HarnessError
from harness.evaluator import CompositeEvaluator, Evaluator
from harness.evaluators.identity import EvaluatorKey
from harness.lib.targets import build
from harness.method import Method
from harness.metrics.summary import CellMetrics

Config = Mapping[str, Any]


def taught_judges(
    methods: Sequence[Config], evaluators: Mapping[str, Evaluator], made: Callable[[Config], Any] | None = None
) -> dict[str, str]:
    """Return the method that learned from each evaluator, by evaluator: the same judge, whatever its config is called.

    `methods` are configs, which `made` builds; those of images from elsewhere name no class, and old ones may not be
    built any more.

    A judge is the same where it measures the same with the same weights; an evaluator that combines others is taught
    where one of its parts is.
    """
    taught: dict[str, str] = {}
    for method in _built(methods, made or (lambda config: build(config, Method))):
        lessons = {_judge(build(config)) for config in method.learned_from()}
        if not lessons:
            continue
        teachers = {name for name, one in evaluators.items()
               if not isinstance(one, CompositeEvaluator) and _judge(one) in lessons}  # fmt: skip
        joint = {name for name, one in evaluators.items()
                 if isinstance(one, CompositeEvaluator) and teachers & {*one.parts}}  # fmt: skip
        taught |= dict.fromkeys(sorted(teachers | joint), method.name)
    return taught


def _built(configs: Sequence[Config], made: Callable[[Config], Any]) -> list[Method]:
    methods = []
    for config in configs:
        with suppress(HarnessError):
            methods += [made(config)] if "_target_" in config else []
    return methods


def _judge(evaluator: Evaluator) -> tuple[str, str]:
    """Name what measures, whatever its config is called."""
    return type(evaluator).__qualname__, EvaluatorKey.of(evaluator).fingerprint


def marked(cell: CellMetrics, taught: Mapping[str, str]) -> CellMetrics:
    """Return the cell with a note at every number of a judge that its method learned from."""
    if not taught:
        return cell
    metrics = {name: replace(one, note=_note(name, one.note, taught)) for name, one in cell.metrics.items()}
    compared = {name: replace(one, note=_note(name, one.note, taught)) for name, one in cell.comparisons.items()}
    return replace(cell, metrics=metrics, comparisons=compared)


def _note(name: str, note: str | None, taught: Mapping[str, str]) -> str | None:
    method = taught.get(name.split("/")[1]) if "/" in name else None
    if method is None:
        return note
    return "; ".join(filter(None, (f"{method} was trained on this judge: not a fair test", note)))
