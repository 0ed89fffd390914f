"""What the cells of one command share: asked for, built or read once, however many of them need it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from harness.bench import find_card
from harness.cells.reference import Reference
from harness.cells.store import Stores
from harness.evaluator import Evaluator
from harness.evaluators.identity import EvaluatorKey
from harness.lib.absolute import absolute
from harness.lib.hashing import canonical_hash
from harness.lib.once import Once
from harness.lib.targets import build
from harness.method import Method
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.weights import missing, weights_fingerprint
from harness.records import ImageItem

KEPT_LISTS = 8  # of images to generate: a list of 30,000 takes 5 MB

Config = Mapping[str, Any]


class Shared:
    """Answers by config, and the stores. Methods and evaluators are built and never set up: they hold no weights.

    It belongs to the process of the command: a copy of it in another process begins with nothing.
    """

    def __init__(self) -> None:
        self.model = Once(_usable)
        self.weights = Once(weights_fingerprint)
        self.missing_weights = Once(missing)
        self.method: Once[Method] = Once(lambda config: build(config, Method))
        self.evaluator: Once[Any] = Once(build)
        self.evaluator_key = Once(lambda config: EvaluatorKey.of(self.evaluator(config)))
        self.evaluator_problem = Once(self._evaluator_problem)
        self.absolute = Once(absolute)
        self.card = Once(lambda asked: find_card(asked["name"], asked["variant"]))
        self.stores = Stores()
        self._references: dict[str, Reference] = {}
        self._items: dict[Hashable, tuple[ImageItem, ...]] = {}

    def __reduce__(self) -> tuple[type[Shared], tuple[()]]:
        return Shared, ()

    def items(self, same: Hashable, make: Callable[[], tuple[ImageItem, ...]]) -> tuple[ImageItem, ...]:
        """Return one list of images for all cells that generate the `same` ones; the lists used last are kept."""
        items = self._items.pop(same, None) or make()
        self._items[same] = items
        if len(self._items) > KEPT_LISTS:
            del self._items[next(iter(self._items))]
        return items

    def reference_set(self, config: Config, evaluator: Config, bench: str, artifacts: str) -> Reference:
        """Return the reference set of a whole config, for the features of an evaluator."""
        asked = canonical_hash([config, evaluator, bench, artifacts])
        if asked not in self._references:
            fingerprint = self.evaluator_key(evaluator).fingerprint
            self._references[asked] = Reference.of(config, fingerprint, bench, artifacts)
        return self._references[asked]

    def _evaluator_problem(self, config: Config) -> str | None:
        made = self.evaluator(config)
        return made.missing() if isinstance(made, Evaluator) else "it is not an Evaluator"


def _usable(config: Config) -> Config:
    """Return a model's config as the files on this machine settle it. Raises HarnessError for one that does not fit."""
    resolved = settled(config)
    check_known(resolved)
    return resolved
