"""From "package.module.Name" to what it names."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from harness.errors import HarnessError, InvalidValueError, unknown_name


def locate(path: object, label: str) -> Any:
    """Return what "package.module.Name" names; `label` says in errors whose it is."""
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")) or "." not in path:
        raise InvalidValueError(f"{label} has no usable _target_ ({path!r}).", "Use _target_: package.module.Class.")
    module_name, _, attribute = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise HarnessError(f"{path} needs the package {error.name}, which is not installed.",
                               f"pip install {error.name.split('.')[0]}") from None
        raise HarnessError(f"_target_ {path} of {label}: no module {module_name}.") from None
    if not hasattr(module, attribute):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise unknown_name(f"class in {module_name}", attribute, classes)
    return getattr(module, attribute)
