"""A third-party model without a diffusers pipeline: `model.loader` names a subclass of Plugin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from harness.errors import IncompatibleError, MissingResourceError
from harness.lib.classes import locate
from harness.models.families.base import Family


class Plugin(Family, ABC):
    """A family of its own, which also opens its files. Construction takes no argument and imports no torch.

    What `open` returns stands for a pipeline: it has the denoiser as attribute `part`, a torch module that `draw` calls
    as a module for each step; a `scheduler` with `timesteps`; and a mapping `config`. Such a subclass overrides
    `encode`, `taken`, `run`, `noise_shape`, `draw` and `decode`, and `roles`, `prediction` and `text_limits` where
    they differ.
    """

    pipeline: ClassVar[str] = ""
    own_scheduler: ClassVar[bool] = True
    plain_calls: ClassVar[bool] = False
    siblings: ClassVar[tuple[str, ...]] = ()
    one_row_because: ClassVar[str] = "its package defines none"

    def missing(self, config: Mapping[str, Any]) -> str | None:
        """Return None when the model can be opened, else one line: what is missing and how to get it. Loads nothing."""
        return None

    @abstractmethod
    def fingerprint(self, config: Mapping[str, Any]) -> str:
        """Return what names the weights, sha256 as 64 hexadecimal digits; of files that are not here, any such text."""

    @abstractmethod
    def open(self, config: Mapping[str, Any], device: str) -> Any:
        """Return the pipeline on a device, in the config's dtype. Reads no pickles and downloads nothing."""


def is_plugged(config: Mapping[str, Any]) -> bool:
    """Return whether a model is opened by a package of its own."""
    return bool(config.get("loader") or config.get("needs_loader"))


def plugin_of(config: Mapping[str, Any]) -> Plugin:
    """Return the plug-in that a config names. Raises HarnessError if it names none, or no plug-in."""
    name, path = config.get("name"), config.get("loader")
    if not path:
        raise MissingResourceError(f"model {name} needs its own package: {config.get('needs_loader')}",
                                   "Set model.loader=<package.module.Class>, a subclass of "
                                   "harness.models.families.Plugin.")
    kind = locate(path, f"model.loader of {name}")
    if not (isinstance(kind, type) and issubclass(kind, Plugin)):
        raise IncompatibleError(f"model.loader={path} is not a subclass of harness.models.families.Plugin.")
    if kind.__abstractmethods__:
        raise IncompatibleError(f"model.loader={path} lacks {', '.join(sorted(kind.__abstractmethods__))}.")
    return kind()
