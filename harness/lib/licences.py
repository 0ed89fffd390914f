"""Licences of what evaluators download, as their publishers state them: a list that ships with the cards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from harness.lib.paths import datasets_dir
from harness.lib.reading import parse_yaml

NOT_STATED = "not stated"


@dataclass(frozen=True)
class Licence:
    """The licence of some weights: who uses them, where it is stated, and what else to know."""

    weights: str
    evaluators: tuple[str, ...]
    licence: str
    source: str
    note: str


def weight_licences(evaluators: Collection[str] = ()) -> list[Licence]:
    """Return the licences of the weights that these evaluators use; of all if none is named."""
    text = (datasets_dir() / "licences" / "weights.yaml").read_text(encoding="utf-8")
    known = [Licence(**{**one, "evaluators": tuple(one["evaluators"])}) for one in parse_yaml(text)]
    return [one for one in known if not evaluators or set(evaluators) & set(one.evaluators)]
