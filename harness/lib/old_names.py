"""Names from before the harness had rooms: commands, and modules that our pages taught, are found under them still."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

COMMANDS = {f"harness.{name}": f"harness.cli.{name}"
            for name in ("artifacts", "calibrate", "convert", "label", "leaderboard", "prefetch", "score")}
MODULES = {
    "harness.artifacts": ("harness.training.artifacts",),
    "harness.families": ("harness.models.families",),
    "harness.interruption": ("harness.training.loop_memory",),
    "harness.settings": ("harness.checks", "harness.cells.settings"),
}


class OldNames(MetaPathFinder, Loader):
    """Finds a module by its former name: its names are those of the modules that took its place."""

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in COMMANDS or fullname in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        for place in MODULES.get(name) or (COMMANDS[name],):
            found = import_module(place)
            module.__dict__.update({key: value for key, value in vars(found).items() if not key.startswith("_")})

    def get_code(self, fullname: str) -> CodeType:
        """Return what `python -m` runs under a former name."""
        return compile(f"import sys\nfrom {COMMANDS[fullname]} import main\nsys.exit(main())\n", fullname, "exec")


def install() -> None:
    """Let imports find former names, after all others."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
