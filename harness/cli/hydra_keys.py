"""Which of Hydra's own keys are served, and what is said to those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra import compose

from harness.cli.hydra_configs import Composed, one_line, unresolved
from harness.cli.sweeps import parse
from harness.errors import HarnessError, InvalidValueError

SEARCH_PATH = "hydra.searchpath"
SERVED = (SEARCH_PATH, "hydra.sweeper", "hydra.mode")
_RESULTS = "Set where a run writes: results=<folder>."
_INSTEAD = {
    "hydra.run": _RESULTS, "hydra.sweep": _RESULTS, "hydra.output_subdir": _RESULTS,
    "hydra.launcher": "All cells of a sweep share one pool: pool=ray.",
    "hydra.job": "A run does not change folder or environment.", "hydra.callbacks": "Callbacks are not supported.",
}  # fmt: skip
# What Hydra fills in itself, and what is served.
_FILLED = ("runtime", "overrides", "sweeper", "searchpath", "mode", "job.name", "job.override_dirname",
           "job.config_name", "job.env_set")


def of_hydra(key: str) -> bool:
    """Return whether a key is Hydra's own."""
    return key.startswith(("hydra.", "hydra/"))


def check_words(words: Sequence[str]) -> None:
    """Refuse words that set a key of Hydra's which is not served. Raises HarnessError."""
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if of_hydra(key):
            _check(key)


def _check(key: str) -> None:
    dotted = key.replace("/", ".")
    if not any(dotted == served or dotted.startswith(f"{served}.") for served in SERVED):
        hint = next((hint for start, hint in _INSTEAD.items() if f"{dotted}.".startswith(f"{start}.")), None)
        raise HarnessError(f"{key}: Hydra's own keys are supported only for {', '.join(SERVED)} and hydra/sweeper.",
                           hint)


def search_path(words: Sequence[str]) -> list[str]:
    """Return the places that hydra.searchpath=[...] names in the words."""
    places: list[str] = []
    for word in words:
        if word.startswith(f"{SEARCH_PATH}="):
            value = parse(word).value()
            if not isinstance(value, list) or not all(isinstance(place, str) for place in value):
                raise InvalidValueError(f"{word}: a list of folders is needed.", f"{SEARCH_PATH}=[file:///my/conf]")
            places += value
    return places


def check_files(composed: Composed) -> None:
    """Refuse a config whose files set a key of Hydra's which is not served. Raises HarnessError."""
    with one_line():
        bare = compose(None, return_hydra_config=True).hydra
    defaults, theirs = _flat(unresolved(bare)), _flat(unresolved(composed.hydra))
    for key in theirs:
        if theirs[key] != defaults.get(key) and not any(f"{key}.".startswith(f"{filled}.") for filled in _FILLED):
            _check(f"hydra.{key}")


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested config by their keys with dots."""
    if not isinstance(config, dict):
        return {prefix.removesuffix("."): config}
    return {name: value for key, inner in config.items() for name, value in _flat(inner, f"{prefix}{key}.").items()}


def is_multirun(master: Composed | None) -> bool:
    """Return whether a config asks for a sweep itself: hydra.mode=MULTIRUN."""
    mode = unresolved(master.hydra).get("mode") if master else None
    return getattr(mode, "name", mode) == "MULTIRUN"


def sweeper_of(master: Composed | None) -> str:
    """Return which of Hydra's sweepers is asked for."""
    return str(master.choices.get("hydra/sweeper")) if master else "basic"
