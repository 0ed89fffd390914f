"""Which files a model config means on this machine: of a hub id and its fallbacks, at which commit, of which family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InvalidValueError, MissingResourceError, unknown_name
from harness.lib.hub_cache import cached_snapshot
from harness.lib.tensor_headers import FileFault
from harness.lib.weights import PACKAGE_PREFIX
from harness.models.families import ALIASES, FAMILIES, Family, family_of, is_plugged
from harness.models.folder import (
    folder_problem,
    has_variant,
    is_folder_source,
    missing_part,
    model_folder,
    pipeline_class,
    source_problem,
)
from harness.models.stages import stages_of, with_stages
from harness.models.weight_files import read_json

Config = Mapping[str, Any]

OWN_PARTS = ("unet", "text_encoder", "lora")  # settings that name the user's own files
MAX_BLOCKS = 16  # of a VAE, each but one of which halves the image


@dataclass(frozen=True)
class Candidate:
    """A hub id that may serve, and the commit, branch or tag of it. `revision` None means the hub's main."""

    source: str
    revision: str | None

    @property
    def snapshot(self) -> Path | None:
        return cached_snapshot(self.source, self.revision or "main")


def candidates(config: Config) -> list[Candidate]:
    """Return the hub ids that a config names, in the order in which they are tried."""
    fallbacks = config.get("fallbacks") or []
    if not isinstance(fallbacks, (list, tuple)):
        raise InvalidValueError(f"model.fallbacks={fallbacks!r}: expected a list of hub ids.")
    return [_candidate(config["source"], config.get("revision")), *(_fallback(entry) for entry in fallbacks)]


def _fallback(entry: Any) -> Candidate:
    if isinstance(entry, str):
        return _candidate(entry, None)
    if not isinstance(entry, Mapping) or "source" not in entry:
        raise InvalidValueError(f"model.fallbacks: {entry!r} expected a hub id or {{source: ..., revision: ...}}.")
    for key in entry:
        if key not in ("source", "revision"):
            raise unknown_name("setting of model.fallbacks", str(key), ("source", "revision"))
    return _candidate(entry["source"], entry.get("revision"))


def _candidate(source: Any, revision: Any) -> Candidate:
    return Candidate(str(source), None if revision is None else str(revision))


def settled(config: Config) -> Config:
    """Return the config with what the files on this machine decide: hub id and commit, variant, family and size.

    Paths become absolute, since workers run in folders of their own. Without files, a hub model stays as it is. Raises
    HarnessError if a folder is not a pipeline.
    """
    if is_plugged(config):
        return _with_branch(config, family_of(config))
    if not config.get("source"):
        raise InvalidValueError(f"model {config.get('name')} has no folder.", "Set model.path=<a diffusers folder>.")
    files = _settled_files(config)
    if files.get("stages"):
        files = with_stages(files, tuple(_settled_files(stage) for stage in stages_of(files)))
    for key, read in _READERS.items():
        if key in files and files[key] is None:
            files = {**files, key: read(files, _pipeline_folder(files))}
    return _with_branch(files, family_of(files))


def _with_branch(config: Config, family: Family) -> Config:
    """Return the config, with what says so where the model has no unconditional branch."""
    if family.has_negative_branch:
        return config
    return {**config, "negative_branch": False, "one_row_because": family.one_row_because}


def _settled_files(config: Config) -> Config:
    return _absolute(config if is_folder_source(str(config["source"])) else _cached(config))


def _absolute(config: Config) -> Config:
    source, changed = str(config["source"]), {}
    if is_folder_source(source) and not source.startswith(PACKAGE_PREFIX):
        changed["source"] = _path(source)
    return {**config, **changed, **{key: _path(config[key]) for key in OWN_PARTS if config.get(key)}}


def _path(value: Any) -> Any:
    """Return an absolute path, or a list of them; what is neither text nor list is refused where it is read."""
    if isinstance(value, (list, tuple)):
        return [_path(one) for one in value]
    return str(Path(value).expanduser().resolve()) if isinstance(value, str) and value else value


def _cached(config: Config) -> Config:
    variant = config.get("variant")
    for candidate in candidates(config):
        folder = candidate.snapshot
        if folder is not None and missing_part(folder, variant, config.get("without") or ()) is None:
            kept = variant if has_variant(folder, variant) else None
            return {**config, "source": candidate.source, "revision": folder.name, "variant": kept, "fallbacks": []}
    return config


def _pipeline_folder(config: Config) -> Path:
    folder = model_folder(config)
    label = f"model {config.get('name')}: {folder or config['source']}"
    if folder is None:
        raise MissingResourceError(f"{label} is not a complete diffusers pipeline: it is not on this machine.",
                                   "Set model.path=<a diffusers folder>.")
    problem = source_problem(folder) or folder_problem(folder, config.get("variant"), config.get("without") or ())
    if problem is not None:
        said = FileFault(f"{label} is not a complete diffusers pipeline: {problem.reason}",
                         problem.remedy or "Set model.path=<a diffusers folder>.", problem.absent)
        raise said.as_error()
    return folder


def _family(config: Config, folder: Path) -> str:
    name = pipeline_name(folder)
    fitting = [family for family, known in FAMILIES.items() if known.pipeline == name]
    if not fitting:
        raise InvalidValueError(unknown_pipeline(config, name))
    if len(fitting) > 1:
        width = _setting(folder / "text_encoder", "hidden_size")
        return next((family for family in fitting if FAMILIES[family].text_width == width), fitting[0])
    return fitting[0]


def _size(config: Config, folder: Path) -> int:
    family = family_of(config)
    latent = family.default_side or _setting(folder / family.part, "sample_size")
    blocks = _setting(folder / "vae", "block_out_channels")
    if not isinstance(latent, int) or not isinstance(blocks, list) or len(blocks) > MAX_BLOCKS:
        raise InvalidValueError(f"the configs in {folder} do not give the image size.", "Set model.size=<pixels>.")
    return latent * int(2 ** (len(blocks) - 1))


_READERS = {"family": _family, "size": _size}


def _setting(part: Path, key: str) -> Any:
    try:
        return read_json(part / "config.json").get(key)
    except FileFault as fault:
        if fault.absent:
            return None
        raise fault.about(part / "config.json").as_error() from None


def pipeline_name(folder: Path) -> str | None:
    """Return the pipeline class that loads a folder, by the name that the engine uses; None if it does not say."""
    name = pipeline_class(folder)
    return ALIASES.get(name, name) if name else None


def unknown_pipeline(config: Config, name: str | None) -> str:
    """Return the line that refuses a pipeline which the engine cannot load."""
    known = ", ".join(dict.fromkeys(family.pipeline for family in FAMILIES.values()))
    return (f"model {config.get('name')}: its folder holds a {name or 'pipeline without a name'}, supported are "
            f"{known}.")
