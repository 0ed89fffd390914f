"""From a config with `_target_` to the object it names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from harness.errors import IncompatibleError, InvalidValueError, unknown_name
from harness.lib.classes import locate

__all__ = ["build", "locate"]


def build(config: Mapping[str, Any], kind: type | None = None) -> Any:
    """Instantiate `{"_target_": "package.module.Class", **parameters}`.

    `kind`: what the class must derive from, checked before anything is made.
    `name` is passed on if the class takes it, and dropped if not. An unknown or missing parameter is a HarnessError.
    """
    label = str(config.get("name", config.get("_target_")))
    target = locate(config.get("_target_"), label)
    if kind is not None and not (isinstance(target, type) and issubclass(target, kind)):
        raise IncompatibleError(f"{config.get('_target_')} of {label} does not derive from "
                                f"{kind.__module__}.{kind.__name__}.")
    if not callable(target):
        raise IncompatibleError(f"{config.get('_target_')} of {label} is not a class.")
    if hasattr(target, "check_class"):  # of `harness.declared`
        target.check_class(config)
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        raise IncompatibleError(f"{config.get('_target_')} of {label} is not a class of the harness.") from None
    given = {key: value for key, value in config.items() if key != "_target_"}
    if "name" not in parameters:
        given.pop("name", None)
    for key in given:
        if key not in parameters:
            raise unknown_name(f"parameter of {label}", str(key), [name for name in parameters if name != "name"])
    needed = [name for name, p in parameters.items() if p.default is p.empty and name not in given]
    if needed:
        raise InvalidValueError(f"{label} needs a value for: {', '.join(needed)}.")
    try:
        return target(**given)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError) as error:
        # Constructors take plain values of a config and load nothing: what they cannot take is a wrong value.
        raise InvalidValueError(f"{label}: a setting has an invalid value: {error}.") from error
