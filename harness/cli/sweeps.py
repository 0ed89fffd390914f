"""The words of a command as Hydra's overrides, and a sweep's as one list of overrides for each of its jobs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from harness.cli.quoting import in_quotes, with_home
from harness.errors import HarnessError, InvalidValueError

GROUPS = ("method", "model", "bench", "pool", "tracker", "experiment", "protocol")
LISTS = ("evaluators",)  # settings whose value is a list of names


def parse(word: str, loader: ConfigLoader | None = None) -> Override:
    """Read one word. Raises HarnessError of one line."""
    word = with_home(word)
    key, equals, text = word.partition("=")
    if not equals and not word.startswith("~"):
        raise HarnessError(f"'{word}' is not a setting.", "Use name=value, such as limit=4.")
    try:
        (override,) = OverridesParser.create(loader).parse_overrides([word])
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(
            f"cannot read '{word}': {reason}.",
            f"Put values with special characters in quotes: {in_quotes(key, text)}",
        ) from None
    if override.package is not None:
        raise HarnessError(f"'{word}': a config has a fixed place; @{override.package} is another.",
                           f"Use {override.key_or_group}={text}.")
    return override


def combinations(overrides: Sequence[Override], loader: ConfigLoader) -> Iterator[tuple[Override, ...]]:
    """Yield one plain list of overrides for each combination of swept values; later words win over earlier ones."""
    by_key = {override.get_key_element(): override for override in overrides}
    choices = []
    for key, override in by_key.items():
        if override.is_sweep_override():
            choices.append([parse(f"{key}={value}", loader) for value in values_of(override)])
        else:
            choices.append([override])
    return itertools.product(*choices)


def values_of(override: Override) -> list[str]:
    """Return the values of a swept setting. Raises InvalidValueError if they cannot be counted, or are none."""
    if not override.is_discrete_sweep():
        raise InvalidValueError(f"'{override.input_line}': an interval is not a list of values to sweep over.",
                                "Use a,b,c or range(start,stop,step); hydra/sweeper=optuna searches intervals.")
    try:
        values = list(override.sweep_string_iterator())
    except HydraException as error:
        raise InvalidValueError(f"'{override.input_line}': {str(error).splitlines()[0]}.") from None
    if not values:
        raise InvalidValueError(f"'{override.input_line}' has no value to sweep over.")
    return values


def from_params(params: Any, given: Sequence[Override], where: str, loader: ConfigLoader) -> list[Override]:
    """Return the settings of a sweep that a config declares, less those that the command line sets."""
    if not isinstance(params, Mapping):
        raise InvalidValueError(f"{where}: a sweep is a mapping of settings and their values.")
    given_keys = {override.key_or_group for override in given}
    declared = [parse(f"{key}={value}", loader) for key, value in params.items()]
    return [override for override in declared if override.key_or_group not in given_keys]


def refuse_sweep(overrides: Sequence[Override]) -> None:
    """Raise HarnessError for the first setting of several values: a single run has none."""
    override = next((override for override in overrides if override.is_sweep_override()), None)
    if override is None:
        return
    if not override.is_discrete_sweep():
        values_of(override)  # says why not
    told = f"'{override.input_line}': several values for one setting are a sweep."
    if override.key_or_group in GROUPS or not override.is_choice_sweep():
        raise HarnessError(told, "Add -m to run them all.")
    key, _, text = (override.input_line or "").partition("=")
    if key in LISTS:
        raise HarnessError(told, f"A list of names has brackets: {key}=[{text}]. A sweep needs -m.")
    raise HarnessError(told, f"A sweep needs -m; a text with commas needs quotes: {in_quotes(key, text)}")


def sweep_notes(words: Sequence[str]) -> list[str]:
    """Say of each setting that commas make a sweep of texts what its values are, and how it would be one text."""
    overrides = [parse(word) for word in words if "=" in word and "," in word and not word.startswith("-")]
    notes = []
    for override in overrides:
        swept = override.is_choice_sweep() and "glob(" not in str(override.input_line)
        texts = list(override.sweep_string_iterator()) if swept else []
        if override.key_or_group in GROUPS or not any(re.search(r"[^\W\d]", text) for text in texts):
            continue
        shown = ", ".join(f"'{text}'" for text in texts[:4]) + (", ..." if len(texts) > 4 else "")
        key, _, text = (override.input_line or "").partition("=")
        notes.append(f"{override.key_or_group} is swept over {len(texts)} values: {shown}; one text with commas needs "
                     f"its own quotes: {in_quotes(key, text)}")
    return notes
