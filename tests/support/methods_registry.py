"""Every method of conf/method/, made small enough for tests that all methods share.

A new method joins those tests by its config file. What it needs here is one entry in KINDS: tiny settings, what
switches it off, what a denoiser call costs.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from harness.cli.compose import compose_jobs
from harness.evaluator import Evaluator
from harness.lib.paths import conf_dir
from harness.lib.targets import build
from harness.method import Artifact, Method
from harness.models.loaded import LoadedModel
from harness.records import ScoreRow, Verdict
from harness.training.artifacts import ArtifactCache, prepare_all
from tests.methods import test_methods_advunlearn as advunlearn
from tests.methods import test_methods_concept_steerers as steerers
from tests.methods import test_methods_saeuron as saeuron
from tests.methods import test_methods_safety_checker as safety_checker
from tests.methods import test_methods_spm as spm
from tests.methods import test_methods_unet_checkpoint as unet_checkpoint
from tests.support.fixtures_models import random_model
from tests.support.methods_common import write_checkpoint

Settings = Mapping[str, Any]
CLIP = {"clip": "pkg://harness.micro/weights/clip", "clip_revision": None}
PRESETS = sorted(path.stem for path in (conf_dir() / "method").glob("*.yaml"))


class EveryOther(Evaluator):
    """Calls every second image unsafe, so that there are always labels of both kinds."""

    name = "every_other"

    def identity(self):
        return {}

    def setup(self, device):
        pass

    def score(self, batch):
        return [ScoreRow(item.key.prompt_id, item.key.repeat, (Verdict.SAFE, Verdict.UNSAFE)[item.key.repeat % 2])
                for item in batch]


@dataclass(frozen=True)
class Kind:
    """How tests make a method of one kind small, and what they may expect of it.

    `settings` replace those of its config, `files` makes what it reads and returns settings. `off` is its strength
    zero, which must be `none` to the bit; null: it has none, for the reason `no_off`, and must change no picture.
    `cost` is that of a denoiser call in units of plain guidance, two rows.
    """

    settings: Settings = field(default_factory=dict)
    files: Callable[[Path], Settings] | None = None
    off: Settings | None = field(default_factory=lambda: {"strength": 0.0})
    no_off: str = ""
    cost: float = 1.0


def _checkpoint(name: str, tensors: Callable[[], Any]) -> Callable[[Path], Settings]:
    return lambda folder: {"checkpoint": str(write_checkpoint(folder / name, tensors()))}


def _spm(folder: Path) -> Settings:
    return {"checkpoint": spm.write(folder / "campfire_last.safetensors", spm.adapters())}


def _saeuron(folder: Path) -> Settings:
    save_file(saeuron.gathered(), folder / "activations.safetensors")
    return {"checkpoint": saeuron.write(folder / "sae"), "activations": str(folder / "activations.safetensors")}


def _safety_checker(folder: Path) -> Settings:
    return {"source": str(safety_checker.checker_folder()), "revision": None, "subfolder": None}


def _feedback(folder: Path) -> Settings:
    for index in range(4):
        Image.fromarray(np.full((32, 32, 3), 30 + 60 * index, np.uint8)).save(folder / f"{index}.png")
    lines = ["image,label", *(f"{index}.png,{index % 2}" for index in range(4))]
    (folder / "feedback.csv").write_text("\n".join(lines) + "\n")
    return {"feedback": str(folder / "feedback.csv")}


_WORD = {**CLIP, "reward": {"hidden": 4, "iterations": 5}, "inversion": {"iterations": 2, "batch": 2}}
_CHANGES_NO_PICTURE = "alone it changes no picture: it only publishes a word"

KINDS: dict[str, Kind] = {
    "none": Kind(off={}),
    "negative_prompt": Kind(off={"concept": ""}),
    "sld": Kind({"warmup": 1, "scale": 5000.0, "threshold": 1.0, "momentum_scale": 0.5}, off={"scale": 0}, cost=1.5),
    "sega": Kind(off={"scale": 0}, cost=1.5),  # one concept
    "trasce": Kind({"loss_scale": 30.0, "step_size": 2.0, "sigma": 20.0}, off={"loss_scale": 0, "negative": False},
                   cost=3.0),
    "safree": Kind({"svf_midpoint": -100.0}),  # so that it acts in 3 steps
    "prompt_filter": Kind(off={"action": "noop"}),
    "safety_checker": Kind({"adjustment": 2.0}, _safety_checker, off={"adjustment": -2.0}),
    "esd": Kind({"iterations": 2, "steps": 3, "batch": 2, "learning_rate": 1e-2}),
    "sdd": Kind({"iterations": 2, "steps": 3, "batch": 2, "learning_rate": 2e-2, "ema_decay": 0.1}),
    "concept_ablation": Kind({"images": 2, "steps": 2, "iterations": 2, "batch": 2, "learning_rate": 1e-2}),
    "safedir": Kind({"training": {"trajectories": 2, "batch": 2, "steps": 3, "learning_rate": 0.5}}),
    "interpret": Kind({"training": {"images": 2, "steps": 2, "train_steps": 2, "batch": 2, "init": 1.0}}),
    "uce": Kind(),
    "rece": Kind({"epochs": 1}),
    "uce_debias": Kind({**CLIP, "concepts": ["doctor"], "images": 3, "steps": 2, "max_iterations": 2}),
    "hfi": Kind(_WORD, _feedback, off=None, no_off=_CHANGES_NO_PICTURE),
    "hfi_proxy": Kind(_WORD | {"images": 4, "steps": 2, "labeller": {
        "_target_": "tests.support.methods_registry.EveryOther"}}, off=None, no_off=_CHANGES_NO_PICTURE),
    "spm": Kind(files=_spm),
    "mace": Kind(files=_checkpoint("diffusion_pytorch_model.safetensors", unet_checkpoint.unet)),
    "salun": Kind(files=_checkpoint("diffusers-nsfw.pt", unet_checkpoint.unet)),
    "published_unet": Kind(files=_checkpoint("esd.safetensors", unet_checkpoint.some_layers)),
    "advunlearn": Kind(files=_checkpoint("model.safetensors", advunlearn.encoder)),
    "concept_steerers": Kind(files=lambda folder: {"checkpoint": steerers.write(folder)}),
    "saeuron": Kind({"hookpoint": saeuron.POINT, "concepts": ["bomb"], "percentile": 80.0, "multiplier": -5.0},
                    _saeuron),
}  # fmt: skip

# Presets that need more than their kind.
OWN: dict[str, Settings] = {
    "prompt_filter_embedding": {"concepts": ["a bomb"], "threshold": 0.9999},
}

# Presets that run the code of another one with other numbers: they are composed and drawn, and checked no further.
NUMBERS_ONLY = {
    "rece_object": "rece", "rece_style": "rece", "rece_unsafe": "rece",
    "concept_ablation_object": "concept_ablation", "concept_ablation_style": "concept_ablation",
    "esd_orig": "esd_x", "esd_repo_sd": "esd_x", "esd_sdd3": "esd_x", "esd_x_strict": "esd_x",
    "safedir_fair_race": "safedir_fair", "sdd_hfi": "sdd",
    "sega_i2p_max": "sega", "sega_i2p_medium": "sega", "sega_i2p_strong": "sega",
    "sld_max": "sld_medium", "sld_strong": "sld_medium", "sld_weak": "sld_medium", "sld_weak_diffusers": "sld_medium",
}  # fmt: skip


def kind_of(preset: str) -> Kind:
    """Return the entry of a preset, or fail and say what to add."""
    kind = build(configs()[preset]).kind
    if kind not in KINDS:
        pytest.fail(f"conf/method/{preset}.yaml is of the kind '{kind}', which KINDS in "
                    "tests/support/methods_registry.py does not have. "
                    "Add it: tiny settings, what switches it off, what a denoiser call costs.")
    return KINDS[kind]


@lru_cache(maxsize=1)
def configs() -> dict[str, dict[str, Any]]:
    """Return every preset as the command line composes it for the embedded model."""
    jobs = compose_jobs([f"method={','.join(PRESETS)}"], multirun=True)
    return {preset: job.methods[0] for preset, job in zip(PRESETS, jobs, strict=True)}


def tiny(preset: str, /, **changes: Any) -> Method:
    """Build a preset with the small settings of its kind."""
    config, kind = configs()[preset], kind_of(preset)
    for settings in (kind.settings, files(build(config).kind), OWN.get(preset, {}), changes):
        config = merged(config, settings)
    method = build(config)
    assert isinstance(method, Method)
    return method


def merged(config: Settings, changes: Settings) -> dict[str, Any]:
    """Return `config` with `changes`, nested ones too. A setting that is not there is a mistake of the registry."""
    result = dict(config)
    for key, value in changes.items():
        assert key in result, f"there is no setting {key} in {sorted(result)}"
        nested = isinstance(value, Mapping) and "_target_" not in value
        result[key] = merged(result[key], value) if nested else value
    return result


@cache
def files(kind: str) -> Settings:
    """Return the settings that name what a kind reads; it is written once."""
    make = KINDS[kind].files
    return make(temporary_folder()) if make else {}


def temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="methods-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@lru_cache(maxsize=1)
def artifact_cache() -> ArtifactCache:
    """Return the artifacts of this process: presets with one recipe train once."""
    return ArtifactCache(temporary_folder())


def artifact(method: Method, model: LoadedModel | None = None) -> Artifact | None:
    """Return a method's artifact for the random-weight model: trained, or loaded where it has been before."""
    return prepare_all(model or random_model(), [method], artifact_cache())[0]
