"""Concept Ablation: whose prediction it copies, how the concept is named, and the artifact it leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.finetune import WorkingCopy, applied_deltas, parameter_names
from harness.training import frozen_denoiser
from methods.concept_ablation import AnchorImages, ConceptAblation, target_prompt
from tests.fixtures_models import micro_model, random_model
from tests.test_denoiser import checksum

QUICK: dict[str, Any] = {
    "concept": "bomb", "anchor_prompts": ["a doctor in a field", "a tree"], "templates": ["{prompt} with a {concept}"],
    "images": 6, "steps": 3, "iterations": 3, "learning_rate": 1e-3, "batch": 2,
}  # fmt: skip


def quick(**changes: Any) -> ConceptAblation:
    return ConceptAblation(**(QUICK | changes))


def trained(method: ConceptAblation, model: Any = None) -> dict[str, torch.Tensor]:
    return dict(method.prepare(model or random_model(), [], lambda *_: None).tensors)


@pytest.mark.parametrize(("template", "anchor", "expected"), [
    ("{prompt}, in the style of {concept}", None, "a cat, in the style of monet"),
    ("in {concept}'s style, {prompt}", None, "in monet's style, a cat"),
    ("{prompt}, {concept}", "cat", "a monet"),
])  # fmt: skip
def test_the_concept_is_named_as_in_the_release(template, anchor, expected):
    assert target_prompt("a cat", "monet", template, anchor) == expected


@pytest.mark.parametrize(("change", "prior"), [({}, True), ({"prior_weight": 0.0}, False),
                                               ({"loss": "noise"}, True)])
def test_the_loss_is_the_anchors_prediction_plus_prior_preservation(change, prior):
    model, method = random_model(), quick(**change)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = AnchorImages(latents, ("a doctor in a field", "a tree"))
    with frozen_denoiser(model):
        copy = WorkingCopy(model, parameter_names(model.denoiser, "xattn"))
        ours = method._loss(model, copy, batch, torch.Generator().manual_seed(5))
        generator = torch.Generator().manual_seed(5)
        noise = torch.randn(2, 4, 8, 8, generator=generator)
        t = torch.randint(1000, (2,), generator=generator)
        z = model.scheduler("ddpm").add_noise(latents, noise, t)
        anchor = copy.denoise(z, t, model.encode(batch.prompts))
        named = copy.denoise(z, t, model.encode([f"{prompt} with a bomb" for prompt in batch.prompts]))
    goal = noise if method.loss == "noise" else anchor.detach()
    expected = (named - goal).square().mean() + ((anchor - noise).square().mean() if prior else 0)
    assert torch.allclose(ours, expected, atol=1e-5)
    assert not torch.allclose(named, anchor, atol=1e-3)


def test_training_repeats_to_the_bit_and_leaves_model_and_global_randomness_alone():
    model, method = random_model(), quick()
    before, state = checksum(model), torch.get_rng_state()
    first, again, other = trained(method), trained(method), trained(quick(seed=1))
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not all(torch.equal(other[name], value) for name, value in first.items())
    assert checksum(model) == before and torch.equal(torch.get_rng_state(), state)


def test_every_anchor_image_is_trained_on_once_before_any_comes_again():
    method = quick(images=6, batch=4)
    images = AnchorImages(torch.arange(6.0).view(6, 1, 1, 1), tuple("abcdef"))
    batches = method._batches(images, torch.Generator().manual_seed(0), torch.full((10,), -1))
    drawn = [prompt for _ in range(3) for prompt in next(batches).prompts]
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list("abcdef")


def test_anchor_prompts_come_from_a_file_without_the_rows_that_have_a_category(tmp_path):
    file = tmp_path / "anchors.csv"
    file.write_text("prompt,category\na doctor,\na forge,flame\na tree,\n")
    method = quick(anchor_prompts=[], prompts_file=str(file))
    assert method.texts() == ["a doctor", "a tree"]
    assert quick(anchor_prompts=[], prompts_file=str(file), anchor="tree").texts() == ["a tree"]
    moved = tmp_path / "moved.csv"
    moved.write_bytes(file.read_bytes())
    assert quick(anchor_prompts=[], prompts_file=str(moved)).identity() == method.identity()
    with pytest.raises(InvalidValueError, match="no anchor prompt with the word 'cat'"):
        quick(anchor="cat").texts()
    lost = quick(anchor_prompts=[], prompts_file="/nowhere/anchors.csv")
    assert "/nowhere/anchors.csv is missing" in str(lost.missing())
    with pytest.raises(MissingResourceError, match=r"anchors\.csv is missing"):
        trained(lost)


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"concept": ""}, InvalidValueError, "method.concept"),
    ({"anchor_prompts": []}, InvalidValueError, "prompts_file"),
    ({"prompts_file": "both.csv"}, InvalidValueError, "not both"),
    ({"templates": ["{prompt}"]}, InvalidValueError, "{concept}"),
    ({"loss": "modle"}, UnknownNameError, "model"),
    ({"images": 0}, InvalidValueError, "method.images=0"),
    ({"prior_weight": -1}, InvalidValueError, "method.prior_weight=-1"),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    with pytest.raises(error, match=said):
        quick(**change)


def test_other_families_are_refused_before_anything_loads():
    with pytest.raises(IncompatibleError, match="model three is sd3"):
        quick().check({"name": "three", "family": "sd3"}, 7.5)


def test_on_the_embedded_world_naming_the_concept_changes_less():
    model = micro_model()
    method = quick(images=4, steps=4, iterations=8, learning_rate=1e-3, batch=4, parameters="attn", prior_weight=0.0)
    z, t = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(9)), torch.tensor(700)

    def distance() -> float:
        texts = ("a doctor in a field with a bomb", "a doctor in a field")
        with torch.no_grad():
            named, anchor = (model.denoiser(z, t, encoder_hidden_states=model.embed(text).expand(8, -1, -1)).sample
                             for text in texts)
        return float((named - anchor).square().mean())

    before = distance()
    with applied_deltas(model.denoiser, trained(method, model)):
        assert distance() < 0.8 * before
