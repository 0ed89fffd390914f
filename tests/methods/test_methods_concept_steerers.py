"""Concept Steerers: the released steering of one text layer, on prompt and negative prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.sampling.session import attached
from methods.concept_steerers import ConceptSteerers, steering
from methods.none import NoMethod
from methods.sld import SLD
from tests.method_parity import agree
from tests.sampling.test_denoiser import pixels, stock
from tests.support.fixtures_models import make_items, make_settings, random_model
from tests.support.methods_common import draw, trained

FEATURES, WIDTH = 24, 32


def autoencoder(width: int = WIDTH) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    def noise(*shape: int) -> torch.Tensor:
        return 0.5 * torch.randn(shape, generator=generator)
    return {"encoder.weight": noise(FEATURES, width), "decoder.weight": noise(width, FEATURES),
            "pre_bias": noise(width), "latent_bias": noise(FEATURES),
            "stats_last_nonzero": torch.zeros(FEATURES, dtype=torch.long)}


def write(folder: Path, state: dict[str, Any] | None = None) -> str:
    """Write a folder as the release's save_to_disk does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"n_dirs_local": FEATURES, "d_model": WIDTH, "k": 4, "auxk": 4,
                                                    "dead_steps_threshold": 10, "auxk_coef": 0.03}))
    torch.save({"state_dict": state or autoencoder()}, folder / "state_dict.pth")
    return str(folder)


@pytest.fixture
def folder(tmp_path) -> str:
    return write(tmp_path / "final")


def steerers(folder: str | None, **changes: Any) -> ConceptSteerers:
    return ConceptSteerers(**({"checkpoint": folder, "concept": "skull, bomb", "layer": 1} | changes))


def layer_output(text: str) -> torch.Tensor:
    model, kept = random_model(), []
    encoder = model.pipe.text_encoder
    layer = getattr(encoder, "text_model", encoder).encoder.layers[1]
    handle = layer.register_forward_hook(lambda m, i, o: kept.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        model.pipe.encode_prompt(text, model.device, 1, do_classifier_free_guidance=False)
    handle.remove()
    return kept[0][0]


def released(text: str, strength: float) -> torch.Tensor:
    """Encode a text with the release's hook on the layer."""
    model, ae = random_model(), autoencoder()
    x = layer_output("skull, bomb")
    pre = torch.relu((x - ae["pre_bias"]) @ ae["encoder.weight"].T + ae["latent_bias"])
    d = (pre * strength) @ ae["decoder.weight"].T
    encoder = model.pipe.text_encoder
    layer = getattr(encoder, "text_model", encoder).encoder.layers[1]
    handle = layer.register_forward_hook(
        lambda m, i, o: (o[0] + d, *o[1:]) if isinstance(o, tuple) else o + d)
    with torch.no_grad():
        embeds, _ = model.pipe.encode_prompt(text, model.device, 1, do_classifier_free_guidance=False)
    handle.remove()
    return embeds[0]


def test_the_vector_is_the_autoencoders_reading_without_top_k(folder):
    ae, x = autoencoder(), layer_output("skull, bomb")
    made = trained(steerers(folder)).tensors["steering"]
    by_hand = torch.relu((x - ae["pre_bias"]) @ ae["encoder.weight"].T + ae["latent_bias"]) @ ae["decoder.weight"].T
    assert torch.allclose(made, by_hand, atol=1e-5) and made.shape == (77, WIDTH)
    assert torch.equal(steering(x, *(ae[k] for k in ("encoder.weight", "decoder.weight", "pre_bias", "latent_bias"))),
                       by_hand)


@pytest.mark.parametrize("negative_row", ["subtract", "keep"])
def test_it_is_the_stock_pipeline_on_the_released_embeddings(folder, negative_row):
    model, items = random_model(), make_items(3)
    method = steerers(folder, negative_row=negative_row, strength=-0.7)
    uncond = released("", 0.7) if negative_row == "subtract" else model.embed("")
    expected = stock(model, items, 5, 32, prompt_embeds=torch.stack([released(item.prompt, -0.7) for item in items]),
                     negative_prompt_embeds=uncond.expand(3, -1, -1))
    ours = draw(method, trained(method))
    agree("concept_steerers", np.abs(ours.astype(int) - expected.astype(int)).max(), 1)
    assert not np.array_equal(ours, draw(NoMethod(), None))


def test_other_methods_texts_are_not_steered(folder):
    model, method = random_model(), steerers(folder)
    sld = SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7)
    with attached(model, [method, sld], [trained(method), None]) as session:
        pixels(session.generate(make_items(2), make_settings(2)))
        assert torch.equal(model.embed("a bomb"), model.embed("a bomb"))
    plain = model.embed("a bomb").clone()
    model.forget_texts()
    assert torch.equal(model.embed("a bomb"), plain)


@pytest.mark.parametrize(("change", "said"), [
    ({"encoder.weight": torch.zeros(FEATURES, 5)}, r"encoder\.weight has shape"),
    ({"bias": torch.zeros(3)}, "bias is not in the model"),
    ({"pre_bias": torch.full((WIDTH,), torch.nan)}, "non-finite"),
])  # fmt: skip
def test_a_wrong_layout_is_refused_in_one_line(tmp_path, change, said):
    with pytest.raises(InvalidValueError, match=said) as caught:
        trained(steerers(write(tmp_path / "wrong", autoencoder() | change)))
    assert "\n" not in str(caught.value)


def test_a_file_without_a_state_dict_is_refused(tmp_path):
    folder = Path(write(tmp_path / "flat"))
    torch.save(autoencoder(), folder / "state_dict.pth")
    with pytest.raises(InvalidValueError, match="has no state_dict"):
        trained(steerers(str(folder)))


def test_what_is_missing_says_where_to_get_it(tmp_path):
    assert "github.com/kim-dahye/steerers" in str(steerers(None).missing())
    absent = steerers(str(tmp_path / "none"))
    assert "state_dict.pth" in str(absent.missing())
    with pytest.raises(MissingResourceError, match=r"state_dict\.pth"):
        trained(absent)


def test_wrong_settings_are_named(folder):
    with pytest.raises(InvalidValueError, match="layers 0 to 1"):
        trained(steerers(folder, layer=9))
    with pytest.raises(InvalidValueError, match="a text"):
        steerers(folder, concept="")
    with pytest.raises(UnknownNameError, match="subtract"):
        steerers(folder, negative_row="both")
    with pytest.raises(IncompatibleError, match="sdxl"):
        steerers(folder).check({"name": "xl", "family": "sdxl"}, 5.0)


def test_strength_reuses_the_vector_and_the_file_names_it(folder, tmp_path):
    assert steerers(folder, strength=-2).training_identity() == steerers(folder).training_identity()
    other = write(tmp_path / "other", {name: value * 2 for name, value in autoencoder().items()})
    assert steerers(other).training_identity() != steerers(folder).training_identity()
