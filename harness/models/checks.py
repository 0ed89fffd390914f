"""Whether a model config, its folder, its further stages and its custom parts fit together. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import IncompatibleError, InvalidValueError
from harness.models.choice import OWN_PARTS, pipeline_name, unknown_pipeline
from harness.models.families import FAMILIES, Family, family_of, is_plugged
from harness.models.folder import model_folder, used_parts
from harness.models.index import INDEX
from harness.models.own_parts import check_own_parts
from harness.models.stages import stages_of
from harness.models.weight_checks import check_weights

Config = Mapping[str, Any]


def check_known(config: Config) -> None:
    """Raise HarnessError for a model that cannot be loaded, is said to be of another family, or whose parts do not fit.

    Reads headers and small files only.
    """
    _check_scheduler(config, family_of(config))
    if is_plugged(config):
        _check_plugged(config)
    else:
        _check_folder(config)
        check_weights(config)
        _check_parts(config, family_of(config))
        _check_stages(config, family_of(config))
        check_own_parts(config)


def _check_folder(config: Config) -> None:
    """Raise IncompatibleError if the folder holds a pipeline of another family than the config says."""
    family, folder = family_of(config), model_folder(config)
    stored = pipeline_name(folder) if folder is not None else None
    fitting = [name for name, known in FAMILIES.items() if known.pipeline == stored]
    if stored is not None and not fitting:
        raise IncompatibleError(unknown_pipeline(config, stored))
    if stored is not None and stored != family.pipeline:
        raise IncompatibleError(f"model {config.get('name')} has family={config.get('family')}, but its folder holds a "
                                f"{stored}.", f"Set model.family={fitting[0]}.")


def _check_parts(config: Config, family: Family) -> None:
    """Raise InvalidValueError if the folder's index leaves out a part without which the family draws nothing."""
    folder, without = model_folder(config), tuple(config.get("without") or ())
    if folder is None or pipeline_name(folder) is None:
        return
    named = used_parts(folder, without)
    absent = next((part for part in (*family.parts, family.part) if part not in (*named, *without)), None)
    if absent is not None:
        raise InvalidValueError(f"model {config.get('name')} in {folder}: {INDEX} lists no {absent}, which a "
                                f"{family.pipeline} needs.", "Download the complete folder again.")


def _check_plugged(config: Config) -> None:
    given = [key for key in OWN_PARTS if config.get(key) is not None]
    if given:
        raise IncompatibleError(f"model {config.get('name')} is loaded by {config['loader']}, which takes no custom "
                                "parts.", f"Set model.{given[0]}=null.")


def _check_stages(config: Config, family: Family) -> None:
    """Raise HarnessError if a family's further pipeline is not named, or one is of another class than is said."""
    stages = stages_of(config)
    if family.decoder and not stages:
        raise InvalidValueError(f"model {config.get('name')} has no decoder.", "Set 'model.stages=[{source: <a hub id "
                                f"or folder>, pipeline: {family.decoder}}}]'.")
    for stage in stages:
        folder, said = model_folder(stage), stage.get("pipeline")
        stored = (pipeline_name(folder) if folder is not None else None) or said
        if stored != said or (family.decoder and said != family.decoder):
            raise IncompatibleError(f"{stage['name']} should be a {family.decoder or said}, but is a {stored}.")


def _check_scheduler(config: Config, family: Family) -> None:
    for key in ("scheduler", "prediction_type"):
        if family.own_scheduler and config.get(key) is not None:
            raise IncompatibleError(f"model {config.get('name')} has family={config.get('family')}, which samples "
                                    "only with its pipeline's own scheduler.",
                                    f"Set model.{key}=null.")
