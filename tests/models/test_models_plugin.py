"""Models of third parties: opened by a class of theirs, drawn, steered and refused like any other."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from harness.__main__ import main
from harness.errors import HarnessError, IncompatibleError, MissingResourceError
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.loaded import LoadedModel
from harness.models.loading import load_model
from harness.models.weights import missing, weights_fingerprint, weights_origin
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.sld import SLD
from tests.sampling.test_denoiser import Spy, grey_levels, pixels, run
from tests.support.fixtures_models import make_items

TOY = {"name": "toy", "family": "toy", "loader": "tests.support.plugin_model.Toy", "key": "sesame", "size": 32,
       "dtype": "float32", "num_inference_steps": 3, "guidance_scale": 5.0, "batch_size": 2}  # fmt: skip
CONFIG = """\
defaults:
  - common/stable_diffusion
  - _self_
name: toy
family: toy
loader: tests.support.plugin_model.Toy
key: sesame
source: null
size: 32
num_inference_steps: 2
dtype: float32
"""


@lru_cache(maxsize=1)
def toy() -> LoadedModel:
    return load_model(TOY)


def drawn(method, items=None) -> np.ndarray:
    return pixels(run(toy(), [method], items or make_items(2), steps=3))


def test_methods_act_on_it_by_the_same_hook():
    none = drawn(NoMethod())
    assert grey_levels(drawn(NegativePrompt("a bomb")), none) > 1
    assert grey_levels(drawn(Spy(push=2.0)), none) > 1
    assert np.array_equal(drawn(Spy()), none)


def test_its_rows_are_told_apart_whatever_their_order():
    log: list = []
    drawn(Spy(log=log, push=1.0))
    assert log[0][3] == ("cond", "cond", "uncond", "uncond", "spy", "spy")
    assert [entry[:2] for entry in log] == [(0, 3), (1, 3), (2, 3)]


def test_what_is_missing_of_it_is_what_it_says():
    assert missing(TOY) is None and missing(TOY | {"key": "x"}) == "the toy needs model.key=sesame"
    with pytest.raises(MissingResourceError, match=r"model\.key=sesame"):
        load_model(TOY | {"key": "x"})
    assert weights_fingerprint(TOY) == "0" * 64
    assert weights_origin(TOY) == {"loader": TOY["loader"], "weights": "0" * 64}


@pytest.mark.parametrize(("change", "said"), [
    ({"loader": "tests.support.plugin_model.NoPlugin"}, "harness.models.families.Plugin"),
    ({"loader": "tests.support.plugin_model.Toi"}, "Toy"),
    ({"loader": "tests.support.plugin_model.Unfinished"}, "Unfinished lacks open"),
    ({"loader": "nowhere_at_all.Toy"}, "no module nowhere_at_all"),
    ({"scheduler": "ddim"}, r"model\.scheduler=null"),
    ({"lora": "x.safetensors"}, r"model\.lora=null"),
])  # fmt: skip
def test_a_mistake_is_one_line(change, said):
    with pytest.raises(HarnessError, match=said) as caught:
        check_known(settled(TOY | change))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_one_without_guidance_refuses_guidance_methods_and_what_is_written_for_other_families_refuses_it():
    config = settled(TOY | {"loader": "tests.support.plugin_model.OneRow"})
    with pytest.raises(IncompatibleError, match="no unconditional branch: its package defines none"):
        NegativePrompt("a bomb").check(config, 5.0)
    with pytest.raises(IncompatibleError, match="toy is toy"):
        SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7).check(settled(TOY), 5.0)


def test_paella_says_in_one_line_what_its_package_must_bring(tmp_path, capsys):
    words = ["mode=plan", "model=paella", "method=none", "bench=micro_i2p", f"results={tmp_path / 'out'}"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    for part in ("vqgan_f4.pt", "prior_v1.pt", "paella_v3.pt", "pickles", "ByT5-XL", "ViT-H/14", "model.loader="):
        assert part in said


def test_a_package_and_a_config_folder_are_all_it_takes(tmp_path, capsys):
    folder = tmp_path / "conf" / "model"
    folder.mkdir(parents=True)
    (folder / "toy.yaml").write_text(CONFIG)
    words = ["--config-dir", str(tmp_path / "conf"), "model=toy", "method=none", "bench=micro_i2p", "limit=2",
             "pool=inline", "tracker=disabled", "evaluators=[degenerate]", "leaderboard=false", "baseline=null",
             f"results={tmp_path / 'out'}"]
    assert main(words) == 0
    assert len(list(Path(tmp_path / "out").rglob("*.png"))) == 2
