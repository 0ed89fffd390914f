"""Which files of a hub repository a model needs: of its variant, safetensors only, with fallback ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.download_plan import Need
from harness.lib.formatting import size
from harness.lib.hub import GoneError, RemoteFile, Repository, fetch, look_up, page_of
from harness.lib.reading import read_json
from harness.models.choice import Candidate, candidates, settled, unknown_pipeline
from harness.models.families import ALIASES, FAMILIES, MIRRORS
from harness.models.folder import is_folder_source
from harness.models.index import INDEX, UNUSED_PARTS
from harness.models.stages import stages_of
from harness.models.weights import missing, missing_pipeline

Config = Mapping[str, Any]

SMALL = (".json", ".txt", ".model")
STEMS = ("diffusion_pytorch_model", "model")


def model_needs(model: Config) -> list[Need]:
    """Return what a model's pipelines need of the hub: nothing of folders, nor of weights that are here.

    Fallbacks are tried in order where a repository is gone. Raises MissingResourceError in one line.
    """
    model = settled(model)
    return [need for one in (model, *stages_of(model)) if (need := _pipeline_need(one))]


def _pipeline_need(config: Config) -> Need | None:
    problem = missing_pipeline({**config, "download": False})
    if problem is None:
        return None
    if is_folder_source(str(config["source"])):
        raise MissingResourceError(problem)
    repository, without = _first_there(config), tuple(config.get("without") or ())
    kinds = (str(config["pipeline"]),) if config.get("pipeline") else known_pipelines()
    files = model_files(repository, config.get("variant"), str(config["name"]), without, kinds)
    return Need(str(config["name"]), repository, files)


def known_pipelines() -> tuple[str, ...]:
    """Return the classes of the pipelines that a model may begin with."""
    return tuple(dict.fromkeys(family.pipeline for family in FAMILIES.values()))


def _first_there(model: Config) -> Repository:
    tried: list[Candidate] = candidates(model)
    for candidate in tried:
        try:
            return look_up(candidate.source, candidate.revision, mirrors=MIRRORS)
        except GoneError:
            if candidate == tried[-1] and len(tried) == 1:
                raise
    names = ", ".join(candidate.source for candidate in tried)
    mirror = next((MIRRORS[c.source] for c in tried if c.source in MIRRORS and MIRRORS[c.source] not in names), None)
    raise MissingResourceError(f"none of {names} exists any more, or this token has no access.",
                               f"There is a mirror: set model.source={mirror}." if mirror else
                               "Set model.source to a folder that has the weights.")


def model_files(
    repository: Repository,
    variant: str | None,
    name: str,
    without: Sequence[str] = (),
    kinds: Sequence[str] | None = None,
) -> tuple[RemoteFile, ...]:
    """Return the files that loading a pipeline reads: its index, small files of each part, weights of the variant.

    Fetches the index alone, which also shows whether the token may. Raises MissingResourceError if a part has no
    safetensors weights, or where no part has the variant, and InvalidValueError for a pipeline that nothing here loads.
    """
    by_name = {file.name: file for file in repository.files}
    page = page_of(repository.id)
    if INDEX not in by_name:
        raise MissingResourceError(f"{page} is not a pipeline in diffusers format: it has no {INDEX}.",
                                   "Set model.source to one that is.")
    index = read_json(fetch(repository, by_name[INDEX])) or {}
    _check_class(index, name, kinds or known_pipelines())
    parts = _parts(index, without)
    files = [by_name[INDEX]]
    varied = False
    for part in parts:
        inside = [file for file in repository.files if file.name.rpartition("/")[0] == part]
        weights, of_part = _weights(inside, variant)
        if not weights and any(file.name.endswith((".bin", ".safetensors", ".ckpt")) for file in inside):
            kind = f" of variant {variant}, nor plain ones" if variant else ""
            raise MissingResourceError(f"{page} has no safetensors weights{kind} in {part}/.",
                                       "Pickled weights are not loaded; use another revision or model.source.")
        varied = varied or of_part
        indexes = "*.safetensors.index*.json"
        files += [file for file in inside if file.name.endswith(SMALL) and not fnmatch(file.name, indexes)]
        files += weights
    if variant and not varied:
        raise MissingResourceError(f"{page} has no {variant} weights, which model {name} asks for.",
                                   f"Set model.variant=null: {size(_plain_bytes(repository, parts))} to download.")
    return tuple(files)


def _check_class(index: Any, name: str, kinds: Sequence[str]) -> None:
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if kind and (not isinstance(kind, str) or ALIASES.get(kind, kind) not in kinds):
        raise InvalidValueError(unknown_pipeline({"name": name}, str(kind)[:100]))


def _plain_bytes(repository: Repository, parts: Sequence[str]) -> int:
    inside = [[file for file in repository.files if file.name.rpartition("/")[0] == part] for part in parts]
    return sum(file.bytes for files in inside for file in _weights(files, None)[0])


def _parts(index: Any, without: Sequence[str]) -> list[str]:
    entries = index.items() if isinstance(index, dict) else ()
    return sorted(part for part, entry in entries
                  if part not in (*UNUSED_PARTS, *without) and isinstance(entry, list) and any(entry[:1]))


def _weights(inside: Sequence[RemoteFile], variant: str | None) -> tuple[list[RemoteFile], bool]:
    """Return one part's weights, sharded ones with their index: of the variant, else plain, as diffusers chooses."""
    for suffix in ([f".{variant}"] if variant else []) + [""]:
        for stem in STEMS:
            index, shard = f"{stem}.safetensors.index{suffix}.json", f"{stem}{suffix}-*-of-*.safetensors"
            short = {file.name.rpartition("/")[2]: file for file in inside}
            if index in short:
                return [short[index], *(f for name, f in short.items() if fnmatch(name, shard))], bool(suffix)
            if f"{stem}{suffix}.safetensors" in short:
                return [short[f"{stem}{suffix}.safetensors"]], bool(suffix)
    return [], False


def check_whole(model: Config) -> None:
    """Raise MissingResourceError unless the model can be loaded from what is here."""
    problem = missing({**model, "download": False})
    if problem:
        raise MissingResourceError(problem)
