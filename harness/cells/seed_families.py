"""Which cells differ in nothing but seeds, by what identifies them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.lib.hashing import canonical_hash

Config = Mapping[str, Any]
SEED = "seed"


def family_of(identity: Config) -> str:
    """Name the cells whose identities differ in nothing but seeds."""
    methods = [{**method, "params": without_seed(method.get("params") or {}, True)}
               for method in identity.get("methods") or ()]
    kept = {key: value for key, value in identity.items() if key not in (SEED, "row_seeds")}
    return canonical_hash({**kept, "methods": methods})[:12]


def without_seed(params: Config, trained: bool) -> Config:
    """Return what a method's result depends on; where it is `trained` with a seed, without that seed."""
    return {key: value for key, value in params.items() if not (trained and key == SEED)}
