"""The weights of a model: what is missing of them, the hash that names them, where they are from. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.lib.hub_cache import has_token, is_offline
from harness.lib.weights import PACKAGE_PREFIX
from harness.models.choice import OWN_PARTS, settled
from harness.models.families import is_plugged, plugin_of
from harness.models.folder import folder_fingerprint, folder_problem, is_folder_source, model_folder
from harness.models.own_parts import PARTIAL, fingerprint_with, own_parts_identity
from harness.models.stages import stages_of

Config = Mapping[str, Any]


def missing(config: Config) -> str | None:
    """Return None when the model can be loaded, else one line: what is missing and how to get it."""
    if is_plugged(config):
        return plugin_of(config).missing(config)
    config = settled(config)
    problems = (missing_pipeline(one) for one in (config, *stages_of(config)))
    return next((problem for problem in problems if problem), None)


def missing_pipeline(config: Config) -> str | None:
    """Return what `missing` does, of one pipeline of a model."""
    source, name = str(config["source"]), config.get("name", "model")
    folder, variant = model_folder(config), config.get("variant")
    if folder is not None and _exists(folder):
        problem = folder_problem(folder, variant, config.get("without") or ())
        if problem is None:
            return None
        place = str(folder) if is_folder_source(source) else f"the cached {source}"
        remedy = problem.remedy if is_folder_source(source) else None
        return f"weights of {name} are incomplete: in {place}, {problem.reason}. {remedy or how_to_get(config)}"
    if is_folder_source(source):
        return f"weights of {name} are missing: no folder {folder}. {how_to_get(config)}"
    if config.get("download") and not is_offline() and (has_token() or not config.get("gated")):
        return None
    offline = " and HF_HUB_OFFLINE forbids downloading them" if is_offline() else ""
    return f"weights of {name} ({source}) are not on this machine{offline}. {how_to_get(config)}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # what keeps it from being looked at is said where it is read


def how_to_get(config: Config) -> str:
    """Return the sentence that says how to get the weights of a pipeline."""
    source, size = str(config["source"]), config.get("download_gb")
    if source.startswith(PACKAGE_PREFIX):
        return str(config.get("how_to_get") or "Reinstall the package that contains them.")
    if is_folder_source(source):
        return "Set model.source to a folder in diffusers format, with safetensors weights."
    gated = ""
    if config.get("gated"):
        token = "" if has_token() else " and set HF_TOKEN"
        gated = f"Accept its licence at https://huggingface.co/{source}{token}, then: "
    revision = f" --revision {config['revision']}" if config.get("revision") else ""
    return (f"{gated or 'Get them: '}python -m harness prefetch with the same settings"
            f"{f' ({size} GB)' if size else ''}, or hf download {source}{revision} {_download_filter(config)}, "
            "or set model.source to a folder that has them.")


def _download_filter(config: Config) -> str:
    wanted = f"*.{config['variant']}.safetensors" if config.get("variant") else "*/*.safetensors"
    return f"--include '*.json' '*.txt' '{wanted}'"


def weights_fingerprint(config: Config) -> str:
    """Return the hash that names the weights, including custom parts.

    Of a folder it is that of its files; of a hub model that of the id and commit which this machine has, or of what
    the config asks for where it has none. Further stages count.
    """
    if is_plugged(config):
        return plugin_of(config).fingerprint(config)
    config = settled(config)
    base, later = _base_fingerprint(config), [_base_fingerprint(stage) for stage in stages_of(config)]
    if later:
        base = hashlib.sha256("\n".join((base, *later)).encode()).hexdigest()
    return fingerprint_with(base, own_parts_identity(config))


def _base_fingerprint(config: Config) -> str:
    source, variant = str(config["source"]), config.get("variant")
    if not is_folder_source(source):
        text = f"hub:{source}@{config.get('revision') or 'main'}:{variant}"
        return hashlib.sha256(text.encode()).hexdigest()
    folder = model_folder(config)
    if folder is None or not folder.is_dir():
        return hashlib.sha256(f"absent:{source}".encode()).hexdigest()
    return folder_fingerprint(folder, variant, config.get("without") or ())


def weights_origin(config: Config) -> dict[str, Any]:
    """Return what provenance says of the weights: the hub id and commit, or folder, really loaded, and own parts."""
    if is_plugged(config):
        return {"loader": config["loader"], "weights": weights_fingerprint(config)}
    config = settled(config)
    custom = {part: config[part] for part in (*OWN_PARTS, PARTIAL) if config.get(part)}
    return {
        "source": config["source"],
        "revision": config.get("revision"),
        "variant": config.get("variant"),
        "own_parts": custom,
        "own_parts_sha256": own_parts_identity(config),
        "stages": [{key: stage.get(key) for key in ("source", "revision", "variant")} for stage in stages_of(config)],
    }
