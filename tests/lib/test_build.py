"""From configs to objects, and what is said when a config is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from harness.cells.proposed_sampling import split_proposal
from harness.errors import HarnessError, IncompatibleError, InvalidValueError, UnknownNameError
from harness.lib.paths import conf_dir
from harness.lib.targets import build
from methods.none import NoMethod


def test_name_goes_where_it_is_taken_and_is_dropped_elsewhere():
    assert build({"_target_": "methods.none.NoMethod", "name": "other"}) == NoMethod("other")
    assert build({"_target_": "fractions.Fraction", "name": "x", "numerator": 3}) == 3


@pytest.mark.parametrize(("config", "error", "said"), [
    ({"_target_": "methods.negative_prompt.NegativePrompt", "concpt": "x"}, UnknownNameError, "concept"),
    ({"_target_": "methods.negative_prompt.NegativePrompt"}, InvalidValueError, "concept"),
    ({"_target_": "methods.none.NoMetod"}, UnknownNameError, "NoMethod"),
    ({"_target_": "methods.nome.NoMethod"}, HarnessError, "no module methods.nome"),
    ({"name": "x"}, InvalidValueError, "_target_"),
])  # fmt: skip
def test_a_wrong_config_says_what_is_right(config, error, said):
    with pytest.raises(error, match=said):
        build(config)


def compose(method: str, model: str) -> dict[str, Any]:
    """Compose one shipped method for one shipped model, as the command line does: what it proposes is no parameter."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra_compose(overrides=[f"+method={method}", f"+model={model}", "+seed=0"])
    found = OmegaConf.to_container(config, resolve=True)
    return {**found, "method": split_proposal(found["method"])[0]}


@pytest.mark.parametrize("model", ["micro", "sd14", "sd20"])
@pytest.mark.parametrize("file", sorted((conf_dir() / "method").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_method_builds_for_every_shipped_model(file, model):
    config = compose(file.stem, model)
    method = build(config["method"])
    assert method.name == file.stem == config["method"]["name"]
    if (file.stem, model) == ("advunlearn", "sd20"):
        with pytest.raises(IncompatibleError, match="sd20 is sd2"):  # published for Stable Diffusion 1.4's text encoder
            method.check(config["model"], config["model"]["guidance_scale"])
        return
    method.check(config["model"], config["model"]["guidance_scale"])
    assert json.dumps(method.identity())


def test_methods_are_built_without_torch_or_diffusers():
    code = (
        "import sys, yaml; from harness.lib.targets import build; from harness.lib.paths import conf_dir;"
        "import harness.training.artifacts, harness.models.loading;"
        "build({'_target_': 'methods.safedir.SafeDir', 'concept': 'a'}).identity();"
        "build({'_target_': 'methods.sld.SLD', 'concept': 'a', 'warmup': 0, 'scale': 1, 'threshold': 0,"
        " 'momentum_scale': 0, 'momentum_beta': 0}).check({'name': 'm'}, 2.0);"
        "assert not {'torch', 'diffusers', 'transformers', 'safetensors.torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
