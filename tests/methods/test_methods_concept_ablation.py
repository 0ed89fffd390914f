"""Concept Ablation: whose prediction it copies, how the concept is named, and the artifact it leaves."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.cli.compose import compose_jobs
from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.lib.targets import build
from harness.training.fine_tuning import WorkingCopy, applied_deltas, parameter_names
from harness.training.frozen import frozen_denoiser
from harness.training.prompts import without_ages
from methods.anchor_images import (
    AnchorImages,
    Frame,
    begin_token_detached,
    draw_frame,
    frame_mask,
    framed,
    masked_error,
)
from methods.concept_ablation import Batch, ConceptAblation, target_prompt
from tests.method_parity import agree
from tests.sampling.test_denoiser import checksum
from tests.support.fixtures_models import micro_model, random_model

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


class ReleasedProcessor:
    """Attention as the release's processor has it: keys and values of the begin token are detached where it is cross.

    Its algebra, `m k + (1 - m) sg(k)` with m zero at the first token, on diffusers' own building blocks.
    """

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        crosses = encoder_hidden_states is not None
        told = encoder_hidden_states if crosses else hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(told), attn.to_v(told)
        if crosses:
            m = torch.ones_like(key)
            m[:, :1] = 0
            key, value = (m * x + (1 - m) * x.detach() for x in (key, value))
        query, key, value = (attn.head_to_batch_dim(x) for x in (query, key, value))
        out = torch.bmm(attn.get_attention_scores(query, key, attention_mask), value)
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(out)))


def pictures(count: int, seed: int = 1) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).uniform(-1, 1, (count, 32, 32, 3)).astype(np.float32))


def batch_of(prior: bool) -> Batch:
    frame = draw_frame(32, False, False, torch.Generator())
    return Batch(pictures(4 if prior else 2), [frame_mask(32, frame, 4)] * 2, ["a doctor with a bomb", "a tree, bomb"],
                 ["a doctor", "a tree"], ["a house", "a nurse"] if prior else [])


def released_loss(model: Any, unet: Any, batch: Batch, loss: str, generator: torch.Generator) -> torch.Tensor:
    """Compute the release's loss on a U-Net of its own, with our draws: latent, noise and timestep of every row."""
    pixels = torch.from_numpy(np.stack(batch.pictures)).permute(0, 3, 1, 2)
    posterior = model.pipe.vae.encode(pixels).latent_dist
    shape, rows = posterior.mean.shape, len(pixels)
    latents = (posterior.mean + posterior.std * torch.randn(shape, generator=generator)) * 0.18215
    noise = torch.randn(shape, generator=generator)
    timesteps = torch.randint(1000, (rows,), generator=generator)
    z = model.scheduler("ddpm").add_noise(latents, noise, timesteps)
    pred = unet(z, timesteps, model.encode([*batch.named, *batch.prior])).sample
    with torch.no_grad():
        anchor = unet(z[:2], timesteps[:2], model.encode(batch.anchors)).sample
    target = anchor if loss == "model" else noise[:2]
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 1:7, 1:7] = 1
    error = torch.nn.functional.mse_loss(pred[:2], target, reduction="none")
    total = ((error * mask).sum([1, 2, 3]) / mask.sum([1, 2, 3])).mean()
    return total + torch.nn.functional.mse_loss(pred[2:], noise[2:]) if batch.prior else total


@pytest.mark.parametrize(("change", "prior"), [({}, True), ({"prior_weight": 0.0}, False), ({"loss": "noise"}, True)])
def test_loss_and_gradient_of_a_step_are_those_of_the_release(change, prior):
    model, method, batch = random_model(), quick(**change), batch_of(prior)
    unet = copy.deepcopy(model.denoiser).requires_grad_(True)
    unet.set_attn_processor(ReleasedProcessor())
    theirs = released_loss(model, unet, batch, method.loss, torch.Generator().manual_seed(5))
    theirs.backward()
    with frozen_denoiser(model), begin_token_detached(model.denoiser):
        own = WorkingCopy(model, parameter_names(model.denoiser, "attn"))
        ours = method._loss(model, own, batch, torch.Generator().manual_seed(5))
        ours.backward()
    agree("concept_ablation", ((ours - theirs).abs() / theirs.abs()).item(), 1e-5)
    for name, parameter in unet.named_parameters():
        if name in own.parameters:
            gap = (own.parameters[name].grad - parameter.grad).abs().max()
            agree("concept_ablation_gradient", gap / (parameter.grad.abs().max() + 1e-5), 1e-4)
    assert not any(module._forward_hooks for module in model.denoiser.modules())


def test_the_distillation_is_a_sum_over_channels_within_the_mask():
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 1:7, 1:7] = 1
    one = torch.ones(2, 4, 8, 8)
    assert masked_error(one, 0 * one, mask) == 4  # beside a prior's mean, which is 1
    assert masked_error(one * (1 - mask), 0 * one, mask) == 0
    assert masked_error(one, 0 * one, 0 * mask) == 0


def test_the_prior_has_pictures_of_its_own():
    method, images = quick(images=6, batch=4), AnchorImages([np.full((32, 32, 3), k, np.uint8) for k in range(6)],
                                                            list("abcdef"))
    partner = torch.tensor([3, 4, 5, 0, 1, 2])
    batch = method._batch(images, [0, 2, 3, 5], partner, torch.Generator().manual_seed(0), 4)
    assert batch.anchors == ["d", "f", "a", "c"] and batch.prior == ["a", "c", "d", "f"]
    shown = [round((picture.mean() + 1) * 127.5) for picture in batch.pictures]
    assert shown == [3, 5, 0, 2, 0, 2, 3, 5]
    bare = quick(images=6, batch=4, prior_weight=0.0)._batch(images, [0, 2], partner, torch.Generator(), 4)
    assert bare.prior == [] and len(bare.pictures) == 2


def test_concepts_take_turns_and_wordings_have_the_released_shares():
    draws = torch.Generator().manual_seed(0)
    default = {f.name: f.default for f in fields(ConceptAblation)}["templates"]
    method = quick(concept=["monet", "dali"], templates=default)
    told = [method._named("a cat", place, draws) for place in range(600)]
    assert all(("dali" in text) == bool(place % 2) for place, text in enumerate(told))
    first = sum(text.startswith("a cat, in the style of") for text in told)
    assert 160 < first < 240 and len(told) - first == sum(text.endswith("'s style, a cat") for text in told)


@pytest.mark.parametrize(("scale", "top", "left"), [(32, 0, 0), (12, 7, 18), (25, 3, 6), (41, 5, 8)])
def test_pictures_are_framed_as_in_the_release(scale, top, left):
    """Shrunk and pasted on grey, or enlarged and cropped; the mask is the inside of what was pasted, or all."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    resized = np.array(Image.fromarray(image).resize((scale, scale), resample=Image.LANCZOS)).astype(np.uint8)
    values, expected, mask = resized / 127.5 - 1.0, np.zeros((32, 32, 3)), np.zeros((8, 8))
    if scale > 32:
        expected, mask = values[top : top + 32, left : left + 32], np.ones((8, 8))
    else:
        expected[top : top + scale, left : left + scale] = values
        mask[top // 4 + 1 : (top + scale) // 4 - 1, left // 4 + 1 : (left + scale) // 4 - 1] = 1.0
    frame = Frame(scale, top, left)
    assert np.allclose(framed(image, frame), expected, atol=1e-6)
    assert np.array_equal(frame_mask(32, frame, 4), mask)
    assert np.allclose(framed(image, Frame(32, mirrored=True)), image[:, ::-1] / 127.5 - 1, atol=1e-6)


def test_frames_are_drawn_in_the_released_ranges_with_their_words():
    draws = torch.Generator().manual_seed(0)
    frames = [draw_frame(512, True, True, draws) for _ in range(2000)]
    small, large = [f for f in frames if f.scale <= 512], [f for f in frames if f.scale > 512]
    assert 0.62 < len(small) / 2000 < 0.70 and 0.45 < sum(f.mirrored for f in frames) / 2000 < 0.55
    assert min(f.scale for f in small) >= 170 and all(614 <= f.scale <= 715 for f in large)
    assert all(max(f.top, f.left) <= abs(f.scale - 512) for f in frames)
    assert {f.words for f in large} == {"zoomed in ", "close up "}
    assert {f.words for f in frames if f.scale < 307.2} == {"a far away ", "very small "}
    assert {f.words for f in frames if 307.2 <= f.scale <= 512} == {""}
    assert {draw_frame(512, False, False, draws) for _ in range(9)} == {Frame(512)}


def test_anchor_pictures_are_drawn_as_released(monkeypatch):
    """DPM-Solver++, 25 steps, w = 6, and for nudity against the target; the model keeps its own scheduler."""
    model, seen = random_model(), {}

    def drawn(model, wanted, steps, guidance_scale, progress):
        seen.update(wanted=wanted, steps=steps, w=guidance_scale, config=dict(model.pipe.scheduler.config),
                    scheduler=type(model.pipe.scheduler).__name__)
        return [np.zeros((32, 32, 3), np.uint8)] * len(wanted)

    monkeypatch.setattr("methods.concept_ablation.generate_images", drawn)
    own = model.pipe.scheduler
    method = ConceptAblation(concept=["skull", "bomb"], anchor_prompts=["a tree", "a house"], images=3, negative=True)
    images = method._draw_images(model, lambda *_: None)
    assert images.prompts == ["a tree", "a house", "a tree"] and model.pipe.scheduler is own
    assert (seen["scheduler"], seen["steps"], seen["w"]) == ("DPMSolverMultistepScheduler", 25, 6.0)
    assert seen["config"]["algorithm_type"] == "dpmsolver++"
    assert [image.negative_prompt for image in seen["wanted"]] == ["skull;bomb"] * 3
    assert len({image.seed for image in seen["wanted"]}) == 3
    quick()._draw_images(model, lambda *_: None)
    assert {image.negative_prompt for image in seen["wanted"]} == {""}


SD14 = ("concept_ablation", "concept_ablation_style", "concept_ablation_object")


@pytest.fixture(scope="module")
def presets() -> dict[str, dict[str, Any]]:
    jobs = compose_jobs([f"method={','.join(SD14)}", "model=sd14"], multirun=True)
    return {name: job.methods[0] for name, job in zip(SD14, jobs, strict=True)}


def test_the_presets_are_the_released_recipes_for_one_gpu(presets):
    """README of the release's diffusers folder: commands for nudity, a style, an object; rates times batch (and 2)."""
    nudity, style, thing = (presets[name] for name in SD14)
    shared = {"loss": "model", "images": 1000, "steps": 25, "scheduler": "dpmsolver++", "guidance_scale": 6.0,
              "batch": 4, "weight_decay": 0.01, "max_grad_norm": 1.0, "flip": True}
    for preset in presets.values():
        assert {key: preset[key] for key in shared} == shared
    assert nudity["templates"] == ["{concept}, {prompt}", "in {concept} style, {prompt}", "{prompt}, {concept}"]
    for preset, values in ((nudity, ("nudity, nsfw", None, 1.0, True, False, "attn", 800, 4e-6 * 4 * 2)),
                           (style, ("van gogh", None, 0.0, False, False, "x_strict", 200, 2e-6 * 4)),
                           (thing, ("r2d2", "robot", 0.0, False, True, "x_strict", 200, 2e-6 * 4))):
        assert tuple(preset[key] for key in ("concept", "anchor", "prior_weight", "negative", "augment", "parameters",
                                             "iterations")) == values[:-1]
        assert preset["learning_rate"] == pytest.approx(values[-1])


@pytest.mark.parametrize("name", SD14)
def test_captions_that_stand_in_are_200_and_none_names_an_age(presets, name):
    method = build(presets[name])
    texts = method.texts()
    assert len(set(texts)) == len(texts) == 200
    assert without_ages(texts, ["nudity, nsfw"]) == texts
    if method.anchor:
        assert all("r2d2" in target_prompt(text, "r2d2", "", method.anchor) for text in texts)


def test_a_caption_that_names_an_age_never_meets_a_sexual_concept(tmp_path):
    """The release's own captions of people hold some."""
    file = tmp_path / "people.txt"
    file.write_text("a man in a field\n\n  a girl with a kite\na tree\n", encoding="utf-8")
    sexual = quick(concept="nudity", anchor_prompts=[], prompts_file=str(file))
    assert sexual.texts() == ["a man in a field", "a tree"]
    harmless = quick(anchor_prompts=[], prompts_file=str(file))
    assert harmless.texts() == ["a man in a field", "a girl with a kite", "a tree"]
    with pytest.raises(InvalidValueError, match="no anchor prompt"):
        quick(concept="nudity", anchor_prompts=["a boy"]).texts()
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(InvalidValueError, match=r"people\.txt is not UTF-8 text"):
        harmless.texts()


def test_training_repeats_to_the_bit_and_leaves_model_and_global_randomness_alone():
    model, method = random_model(), quick()
    before, state = checksum(model), torch.get_rng_state()
    first, again, other = trained(method), trained(method), trained(quick(seed=1))
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not all(torch.equal(other[name], value) for name, value in first.items())
    assert checksum(model) == before and torch.equal(torch.get_rng_state(), state)


def test_every_picture_is_trained_on_once_before_any_comes_again():
    picks = quick(images=6, batch=4)._picks(torch.Generator().manual_seed(0), torch.full((10,), -1))
    drawn = [place for _ in range(3) for place in next(picks)]
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list(range(6))


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
    ({"prompts_file": "both.csv"}, InvalidValueError, "set either method.anchor_prompts"),
    ({"templates": ["{prompt}"]}, InvalidValueError, "{concept}"),
    ({"loss": "modle"}, UnknownNameError, "model"),
    ({"images": 0}, InvalidValueError, "method.images=0"),
    ({"prior_weight": -1}, InvalidValueError, "method.prior_weight=-1"),
    ({"augment": "yes"}, InvalidValueError, "method.augment=yes"),
    ({"scheduler": "dpm"}, UnknownNameError, "ddpm|dpmsolver"),
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
