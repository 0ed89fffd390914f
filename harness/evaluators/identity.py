"""What identifies an evaluator: hashes of everything that changes its scores, and its verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.lib.hashing import canonical_json, text_hash


class _Measuring(Protocol):
    @property
    def stored_as(self) -> str: ...

    def identity(self) -> Mapping[str, Any]: ...

    def measured(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class EvaluatorKey:
    """Whose scores are stored: the folder, and what made them. Scores of another fingerprint do not count."""

    name: str
    fingerprint: str

    @classmethod
    def of(cls, evaluator: _Measuring) -> EvaluatorKey:
        """Hash all that changes stored scores: class version and what is measured, but not the name."""
        return cls(evaluator.stored_as, _fingerprint(evaluator, evaluator.measured()))


def evaluator_fingerprint(evaluator: _Measuring, parts: Mapping[str, _Measuring] | None = None) -> str:
    """Hash all that changes what an evaluator says, its threshold and labels included: whose number a metric is.

    `parts`: those that a composite combines, by name.
    """
    of_parts = {name: evaluator_fingerprint(part) for name, part in (parts or {}).items()}
    return _fingerprint(evaluator, {**evaluator.identity(), **({"parts": of_parts} if of_parts else {})})


def _fingerprint(evaluator: object, identity: Mapping[str, Any]) -> str:
    known = {"version": getattr(evaluator, "version", 1), "identity": dict(identity)}
    return text_hash(canonical_json(known, spaced=True, finite=True))[:16]
