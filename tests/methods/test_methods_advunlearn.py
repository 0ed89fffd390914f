"""AdvUnlearn: a published text encoder takes the model's place, under old and new names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError
from harness.sampling.session import attached
from methods.advunlearn import AdvUnlearn
from methods.none import NoMethod
from tests.method_parity import agree
from tests.sampling.test_denoiser import pixels
from tests.support.fixtures_models import make_items, make_settings, random_config, random_model
from tests.support.methods_common import draw, write_checkpoint


def encoder(prefix: str = "text_model.") -> dict[str, torch.Tensor]:
    """Return a changed text encoder in the release's names, with the counter that transformers 4 stored."""
    generator = torch.Generator().manual_seed(0)
    own = random_model().pipe.text_encoder.named_parameters()
    changed = {prefix + name.removeprefix("text_model."): value.detach() + 0.1 * torch.randn(value.shape,
                                                                                            generator=generator)
               for name, value in own}
    return changed | {f"{prefix}embeddings.position_ids": torch.arange(77)[None]}


@pytest.fixture
def folder(tmp_path):
    write_checkpoint(tmp_path / "model.safetensors", encoder())
    return tmp_path


@pytest.mark.parametrize(("name", "prefix"), [("model.safetensors", "text_model."), ("model.safetensors", ""),
                                              ("pytorch_model.bin", "text_model.")])  # fmt: skip
def test_it_is_the_released_folder_in_either_naming(tmp_path, name, prefix):
    write_checkpoint(tmp_path / name, encoder(prefix))
    text_encoder, published = random_model().pipe.text_encoder, encoder()
    with attached(random_model(), [AdvUnlearn(str(tmp_path))], [None]):
        for own, value in text_encoder.named_parameters():
            agree("advunlearn", (value - published["text_model." + own.removeprefix("text_model.")]).abs().max(), 0)


def test_texts_are_encoded_anew_and_as_before_once_it_is_left(folder):
    model, items = random_model(), make_items(3)
    before = model.embed("a bomb")
    with attached(model, [AdvUnlearn(str(folder))], [None]) as session:
        assert not torch.equal(model.embed("a bomb"), before)
        edited = pixels(session.generate(items, make_settings()))
    assert torch.equal(model.embed("a bomb"), before)
    assert not np.array_equal(edited, draw(NoMethod(), None))


def test_strength_scales_it(folder):
    model = random_model()
    name, before = next((n, v.detach().clone()) for n, v in model.pipe.text_encoder.named_parameters())
    with attached(model, [AdvUnlearn(str(folder), strength=0.5)], [None]):
        half = dict(model.pipe.text_encoder.named_parameters())[name].detach().clone()
    whole = encoder()["text_model." + name.removeprefix("text_model.")]
    assert torch.allclose(half, before + 0.5 * (whole - before))


def test_a_wrong_layout_is_refused_in_one_line(tmp_path):
    for change in ({"text_model.final_layer_norm.bias": torch.zeros(7)}, {"text_projection.weight": torch.zeros(2)}):
        write_checkpoint(tmp_path / "model.safetensors", encoder() | change)
        with pytest.raises(InvalidValueError, match=r"does not fit: (final_layer_norm\.bias has shape|text_proj)"), \
                attached(random_model(), [AdvUnlearn(str(tmp_path))], [None]):
            pass


def test_a_hub_folder_is_found_in_the_cache_and_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    method = AdvUnlearn("hf://OPTML-Group/AdvUnlearn/nudity_unlearned")
    assert "harness prefetch with the same settings downloads it" in str(method.missing())
    assert "hf:/O" not in str(method.missing()) and str(method.missing()).count("nudity_unlearned/model") == 1
    snapshot = tmp_path / "models--OPTML-Group--AdvUnlearn" / "snapshots" / "main" / "nudity_unlearned"
    snapshot.mkdir(parents=True)
    write_checkpoint(snapshot / "model.safetensors", encoder())
    assert method.missing() is None
    assert not np.array_equal(draw(method, None), draw(NoMethod(), None))


@pytest.mark.parametrize("source", ["hf://x", "hf://", "hf:///x/y"])
def test_a_hub_address_without_owner_or_name_is_one_line(source):
    with pytest.raises(InvalidValueError, match=r"hf://owner/name"):
        AdvUnlearn(source).missing()


def test_an_encoder_of_another_width_is_refused_before_anything_loads(folder):
    config = random_config()
    AdvUnlearn(str(folder)).check(config, 5.0)
    wide = {name: value.new_zeros(len(value), 48) if name.endswith("token_embedding.weight") else value
            for name, value in encoder().items()}
    write_checkpoint(folder / "model.safetensors", wide)
    with pytest.raises(IncompatibleError, match="was made for 48 text features, but model random-weight has 32"):
        AdvUnlearn(str(folder)).check(config, 5.0)
    with pytest.raises(IncompatibleError, match="sd20 is sd2"):
        AdvUnlearn("hf://OPTML-Group/AdvUnlearn/nudity_unlearned").check({"name": "sd20", "family": "sd2"}, 5.0)


def test_the_identity_is_the_files_content(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_checkpoint(other / "model.safetensors", encoder())
    assert AdvUnlearn(str(folder)).identity() == AdvUnlearn(str(other)).identity()
    with pytest.raises(IncompatibleError, match="sdxl"):
        AdvUnlearn().check({"name": "xl", "family": "sdxl"}, 5.0)
