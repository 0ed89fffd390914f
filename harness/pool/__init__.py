"""Workers, in this process or of Ray's: `make_pool` gives what the configuration asks for. Knows no Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.pool.contract import Interrupted, Lost, Pool, Progress, Then

if TYPE_CHECKING:
    from harness.pool.toolbox import Toolbox

__all__ = ["Interrupted", "Lost", "Pool", "Progress", "Then", "make_pool"]

# Read by Ray when it is imported, which is after this package.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def make_pool(config: Mapping[str, Any], results: Path | None = None, toolbox: Toolbox | None = None) -> Pool:
    """Return the pool that the config asks for; nothing is started before the first `run`.

    With `results`, workers prove at their start that what they write there is seen here.
    """
    from harness.pool.engine import EngineToolbox
    from harness.pool.settings import PoolSettings

    settings, tools = PoolSettings.from_config(config), toolbox or EngineToolbox()
    if settings.kind == "inline":
        from harness.pool.inline import InlinePool

        return InlinePool(settings, tools)
    from harness.pool.ray import RayPool

    return RayPool(settings, results, tools)
