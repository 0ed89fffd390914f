"""Module and command names from before the rooms: they still work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

# What were modules to run (`python -m harness.score`) and are words of `python -m harness`.
COMMANDS = {f"harness.{name}": f"harness.cli.{name}"
            for name in ("artifacts", "calibrate", "convert", "label", "leaderboard", "prefetch", "score")}
# By room: what moved into it, `former=present` where its name is another one, too.
_MOVED = {
    "bench": "image_names labelled real_images=reference_images",
    "cells": ("calibration comparable comparisons cpu_cost given_images=given gpu_cost judged "
               "one_training pairing plan proposed_sampling provenance reference set_scores store "
               "stored_cell=stored strays tables taught training_seeds verdicts writer"),
    "cli": ("answering artifact_tool=artifacts calibrate convert export label quoting "
               "report.label_page=label_page score"),
    "evaluators": "scoring",
    "lib": ("absolute arrays build=targets downloads ending evaluators.weights=weights hub "
               "image_files lease machine needs paths pictures=image_files reading reproducible "
               "sources=wanted streams table_file table_formats table_text table_values "
               "targets=trusted_targets tensor_headers torch_headers"),
    "models": ("config_types=settings conditions families fetch_models=downloads ldm_names lora "
               "model_checks=checks model_choice=choice model_parts=own_parts model_stages=stages "
               "part_layouts part_tensors text_encoders=text_encoder_identity texts=text_encoder "
               "weight_checks weight_files"),
    "models.families": ("families.base=base families.deepfloyd=deepfloyd families.flux=flux "
               "families.plugin=plugin families.sd3=sd3 families.sdxl=sdxl "
               "families.wuerstchen=wuerstchen"),
    "pool": "at_work holding judging worker",
    "report": "published=published_numbers",
    "sampling": "batches forwards=patching generate=session",
    "training": ("checkpoints=published closed_form embedding_direction feedback finetune=fine_tuning "
               "interruption=loop_memory inversion=textual_inversion latent_direction=bottleneck "
               "own_images soft_token=learned_tokens weight_edits"),
}
# What has moved on since there are rooms, by its name of then.
_SINCE = {
    "harness.cells.given": ("harness.cells.imported_images",),
    "harness.cells.judged": ("harness.cells.evaluations",),
    "harness.cells.stored": ("harness.cells.stored_cell",),
    "harness.cells.taught": ("harness.cells.training_judges",),
    "harness.cells.verdicts": ("harness.cells.judgements",),
    "harness.lib.needs": ("harness.lib.download_plan",),
    "harness.pool.at_work": ("harness.pool.work_notes",),
    "harness.pool.holding": ("harness.pool.worker_cache", "harness.pool.tasks"),
    "harness.training.bottleneck": ("methods.interpret_direction",),
    "harness.training.embedding_direction": ("methods.safedir_direction", "harness.sampling.windows"),
    "harness.training.feedback": ("methods.hfi_feedback",),
    "harness.training.learned_tokens": ("methods.hfi_tokens", "harness.training.frozen"),
    "harness.training.own_images": ("harness.training.generated_images",),
    "harness.training.textual_inversion": ("methods.hfi_inversion",),
}
# What was one module and is several.
_PARTED = {
    "cell": ("cells.identity", "cells.cell", "cells.making"),
    "artifacts": ("training.artifact_files", "sampling.artifact_content", "training.artifacts"),
    "compose": ("cells.job", "cli.compose"),
    "denoiser": ("sampling.denoiser", "sampling.prediction_types"),
    "features": ("evaluators.identity", "cells.features"),
    "files": ("checks", "lib.atomic"),
    "leaderboard": ("report.leaderboard", "cli.leaderboard"),
    "model_files": ("lib.hub_cache", "models.folder"),
    "prefetch": ("cells.fetching", "cli.prefetch"),
    "progress": ("lib.progress", "lib.formatting"),
    "reporting": ("summary", "cells.scored", "report.write"),
    "settings": ("checks", "cells.settings"),
    "tasks": ("records", "pool.tasks"),
    "toolbox": ("sampling.batches", "pool.toolbox", "pool.engine"),
    "tracking": ("cells.tracker", "report.tracking"),
}


def _places() -> dict[str, tuple[str, ...]]:
    """Return, by a module's former name, the modules that its names are in now."""
    by_name = {f"harness.{former}": tuple(f"harness.{place}" for place in places) for former, places in _PARTED.items()}
    for room, names in _MOVED.items():
        for name in names.split():
            former, _, present = name.partition("=")
            place = f"harness.{room}.{present or former}"
            by_name[f"harness.{former}"] = _SINCE.get(place, (place,))
    return by_name | _SINCE


MODULES = _places()
# What is called otherwise now, by the module's former name.
RENAMED = {
    "harness.tasks": {"ScoreRequest": "ScoreItem"},
    "harness.training.own_images": {"own_images": "generate_images", "Wish": "TrainingImage"},
}  # fmt: skip


class OldNames(MetaPathFinder, Loader):
    """Finds a module by its former name: its names are those of the modules that took its place."""

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in COMMANDS and fullname not in MODULES:
            return None
        file = f"{COMMANDS[fullname].removeprefix('harness.').replace('.', '/')}.py" if fullname in COMMANDS else ""
        return ModuleSpec(
            fullname, self, origin=str(Path(__file__).parents[1] / file),  # which `python -m` makes of it sys.argv[0]
            is_package=any(name.startswith(f"{fullname}.") for name in MODULES),
        )  # fmt: skip

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        for place in MODULES.get(name, ()) or (COMMANDS[name],):
            present = import_module(place)
            module.__dict__.update({key: value for key, value in vars(present).items() if not key.startswith("_")})
        for former, now in RENAMED.get(name, {}).items():
            module.__dict__[former] = module.__dict__[now]

    def get_code(self, fullname: str) -> CodeType:
        """Return what `python -m` runs under a former name."""
        if fullname not in COMMANDS:
            raise ImportError(f"{fullname} is not a command")
        words = f"[{fullname.rpartition('.')[2]!r}, *sys.argv[1:]]"
        return compile(f"import sys\nfrom harness.__main__ import main\nsys.exit(main({words}))\n", fullname, "exec")


def install() -> None:
    """Let imports find former names, after all others."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
