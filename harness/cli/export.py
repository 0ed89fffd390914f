"""Trained artifacts for the world outside of the harness: files of plain tensors, and the code that applies them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path

from harness.checks import check_label
from harness.cli.compose import compose_jobs
from harness.errors import IncompatibleError, InvalidValueError
from harness.lib.atomic import write_atomic
from harness.lib.trusted_targets import stored_class
from harness.method import Export, Method
from harness.models.loaded import LoadedModel
from harness.models.loading import load_model
from harness.models.weights import weights_fingerprint
from harness.training.artifacts import StoredArtifact

README = "how_to_use.txt"


def export_artifact(
    artifact: StoredArtifact, load: Callable[[], LoadedModel], trusted: Collection[str] = ()
) -> Export:
    """Return the files of an artifact in the format of its method's authors; `load` gives the model if need be.

    `trusted`: classes outside of the harness that the artifact may name.
    """
    for left in artifact.meta.get("upstream_classes", ()):
        stored_class(left, (Method,), trusted, f"artifact {artifact.key}")
    return method_class(artifact, trusted).export(artifact, load)


def method_class(artifact: StoredArtifact, trusted: Collection[str] = ()) -> type[Method]:
    """Return the class that made an artifact. Raises InvalidValueError if it does not say."""
    path = artifact.meta.get("class")
    if path is None:
        raise InvalidValueError(f"artifact {artifact.key} does not record the class that trained it.",
                                "Train it again with this version: delete its folder and run the same command.")
    method_type: type[Method] = stored_class(str(path), (Method,), trusted, f"artifact {artifact.key}")
    return method_type


def base_loader(artifact: StoredArtifact, words: Sequence[str], config_dirs: Sequence[str]
                ) -> Callable[[], LoadedModel]:
    """Return what loads the model that an artifact was made for, as named by it or by `words` (model=...).

    Raises IncompatibleError, naming both, where that model has other weights.
    """
    trained_on = artifact.meta.get("model")
    model_word = [f"model={check_label('model', trained_on)}"] if trained_on else []
    (job,) = compose_jobs([*model_word, *words], False, config_dirs)
    base, weights = str(artifact.meta["base"]["weights"]), weights_fingerprint(job.model)
    if base != weights:
        raise IncompatibleError(f"artifact {artifact.key} was made for weights {base[:12]} of {trained_on}, and model "
                                f"{job.model.get('name')} has {weights[:12]}.", "Set its model: model=...")
    return cache(lambda: load_model(job.model))


def write_export(export: Export, artifact: StoredArtifact, folder: Path) -> list[Path]:
    """Write the files and how_to_use.txt into a folder, which must be new or empty; return their paths."""
    from safetensors.torch import save

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidValueError(f"{folder} already exists and is not empty.", "Choose a new folder for the export.")
    written = []
    for name, tensors in export.files.items():
        data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, {"format": "pt"})
        write_atomic(folder / name, data)
        written.append(folder / name)
    write_atomic(folder / README, how_to_use(export, artifact).encode())
    return [*written, folder / README]


def how_to_use(export: Export, artifact: StoredArtifact) -> str:
    """Return Python code that applies the files to `pipe`, in a text that says where they come from."""
    meta = artifact.meta
    upstream = f" together with {', '.join(meta['upstream'])}" if meta["upstream"] else ""
    return f"""\
# {meta['method']} ({meta['recipe']['kind']}), artifact {artifact.key}{upstream}.
# Strength 1, unless the lines below set another.
# Made for {meta.get('model')}, weights {meta['base']['weights'][:12]}. Run this in the folder of the files, with the
# model in diffusers: pipe = StableDiffusionPipeline.from_pretrained(...)
import torch
from safetensors.torch import load_file

{export.how_to_use}
"""
