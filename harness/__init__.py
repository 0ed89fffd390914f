"""A distributed benchmark harness for responsible text-to-image models.

What your own method, evaluator or script imports; each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.lib.old_names import install
from harness.lib.version import __version__ as __version__

if TYPE_CHECKING:
    from harness.api.applied import apply
    from harness.api.judging import judge
    from harness.api.tables import results
    from harness.cli.compose import compose_jobs
    from harness.comparisons.compare import compare
    from harness.errors import HarnessError
    from harness.evaluator import CompositeEvaluator, Evaluator, SetEvaluator
    from harness.method import Method, Refusal, Trained
    from harness.models.conditions import ExtraRow
    from harness.records import ScoreRow, Verdict
    from harness.run import run as run_jobs

__all__ = ["CompositeEvaluator", "Evaluator", "ExtraRow", "HarnessError", "Method", "Refusal", "ScoreRow",
           "SetEvaluator", "Trained", "Verdict", "apply", "compare", "compose_jobs", "judge", "results",
           "run_jobs"]  # fmt: skip

_PLACES = {
    "apply": "api.applied.apply", "judge": "api.judging.judge", "results": "api.tables.results",
    "CompositeEvaluator": "evaluator.CompositeEvaluator", "Evaluator": "evaluator.Evaluator",
    "ExtraRow": "models.conditions.ExtraRow", "HarnessError": "errors.HarnessError", "Method": "method.Method",
    "Refusal": "method.Refusal", "ScoreRow": "records.ScoreRow", "SetEvaluator": "evaluator.SetEvaluator",
    "Trained": "method.Trained", "Verdict": "records.Verdict", "compare": "comparisons.compare.compare",
    "compose_jobs": "cli.compose.compose_jobs",
    "run_jobs": "run.run",  # `harness.run` is the module
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].rpartition(".")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


install()
