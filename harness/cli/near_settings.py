"""The setting that somebody may have meant: `steps` is `bench.num_inference_steps`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from harness.errors import UnknownNameError, unknown_name

_ORDER = ("bench", "model", "method", "evaluator", "pool", "tracker")  # whose setting is meant where several have it


def keys_of(config: Any, prefix: str = "") -> list[str]:
    """Return every key of nested mappings, with dots."""
    if not isinstance(config, dict):
        return []
    keys = [f"{prefix}{key}" for key in config]
    return keys + [name for key, value in config.items() for name in keys_of(value, f"{prefix}{key}.")]


def unknown_setting(key: str, config: Any) -> UnknownNameError:
    """Build the error for a key that a config does not have, with those that it may stand for."""
    valid = keys_of(config)
    return unknown_name("setting", key, _same_name(key, valid) or _same_words(key, valid) or valid)


def unread_keys(config: Mapping[Any, Any], settings: Collection[str], others: Sequence[Any]) -> list[str]:
    """Return the keys of a whole config that nothing reads: no settings, and named by no interpolation.

    Interpolations are those of `config` and of `others`, as they are written.
    """
    written = str([config, others])
    return [str(key) for key in config
            if key not in settings and not re.search(rf"\$\{{[^}}]*\b{re.escape(str(key))}\b", written)]


def _same_name(key: str, valid: Sequence[str]) -> list[str]:
    """Return keys that end alike, those of no group or one group only: deep ones are no first guess."""
    last = key.rpartition(".")[2]
    return [name for name in valid if name.rpartition(".")[2] == last and name.count(".") <= max(1, key.count("."))]


def _same_words(key: str, valid: Sequence[str]) -> list[str]:
    """Return the one key whose name has all words of this one: steps, num_inference_steps."""
    words = set(re.split(r"[._]", key.rpartition(".")[2].casefold()))
    group = key.rpartition(".")[0]
    matches = [name for name in valid if words <= set(name.rpartition(".")[2].split("_")) and name.count(".") <= 1
             and name.startswith(group)]
    return sorted(matches, key=lambda name: _rank(name.partition(".")[0]))[:1]


def _rank(group: str) -> int:
    return _ORDER.index(group) if group in _ORDER else len(_ORDER)
