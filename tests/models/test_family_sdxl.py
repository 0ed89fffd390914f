"""SDXL: two text encoders, pooled embeddings, time ids. Stock parity, every method on it, and what refuses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml

from harness.__main__ import main
from harness.cli.compose import compose_jobs
from harness.errors import IncompatibleError, InvalidValueError
from harness.lib.paths import conf_dir
from harness.lib.targets import build
from harness.method import ExtraRow, Method
from harness.models.conditions import condition, denoiser_inputs, unconditional
from harness.models.loaded import LoadedModel, make_scheduler
from harness.models.loading import _configure, load_model
from harness.models.weights import weights_fingerprint
from harness.records import TRUNCATED, ImageItem
from harness.sampling.prediction_types import predict_epsilon
from harness.sampling.session import attached
from harness.sampling.texts import bundle_of
from harness.training.closed_form import deltas, paired_tokens, projections, subject_index
from harness.training.fine_tuning import PartialDenoising, frozen_denoise, parameter_names
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.parameter_sets import PARAMETER_SETS
from methods.safree import SAFREE
from methods.sld import SLD
from methods.uce import UCE
from tests.sampling.test_denoiser import Failing, checksum, grey_levels, pixels, run, scheduler, v_twin
from tests.support.fixtures_models import (
    SIZE,
    make_items,
    make_settings,
    random_config,
    random_xl_config,
    random_xl_model,
)
from tests.support.methods_common import all_hooks, trained

STEPS = 3
CLIP = {"clip": "pkg://harness.micro/weights/clip", "clip_revision": None}
XL = {"name": "xl", "family": "sdxl"}

# Presets that draw on SDXL, with settings that make them small, and what switches each off.
STRENGTH = {"strength": 0.0}
DRAWN: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "negative_prompt": ({}, {"concept": ""}),
    "sld_medium": ({}, {"scale": 0}),
    "sega": ({}, {"scale": 0}),
    "safree": ({"svf": False}, STRENGTH),
    "trasce": ({"loss_scale": 30.0, "sigma": 20.0}, {"loss_scale": 0, "negative": False}),
    "safedir": ({"training": {"trajectories": 2, "batch": 2, "steps": 3, "learning_rate": 0.5}}, STRENGTH),
    "safedir_fair": ({"training": {"trajectories": 1, "batch": 1, "steps": 3, "learning_rate": 0.5, "pooled": True}},
                     STRENGTH),
    "interpret_safe": ({"training": {"images": 2, "steps": 2, "train_steps": 2, "batch": 2, "init": 1.0}}, STRENGTH),
    "esd_x": ({"iterations": 2, "steps": 3, "batch": 2, "learning_rate": 1e-2, "sampler": "base"}, STRENGTH),
    "esd_u": ({"iterations": 1, "steps": 3, "learning_rate": 1e-2, "erase_from": "a hat"}, STRENGTH),
    "sdd": ({"iterations": 2, "steps": 3, "batch": 2, "learning_rate": 2e-2, "ema_decay": 0.1}, STRENGTH),
    "concept_ablation": ({"images": 2, "steps": 2, "iterations": 2, "batch": 2, "learning_rate": 1e-2}, STRENGTH),
    "uce": ({}, STRENGTH),
    "rece": ({"epochs": 1}, STRENGTH),
    "uce_debias": ({**CLIP, "concepts": ["doctor"], "images": 2, "steps": 2, "max_iterations": 2}, STRENGTH),
}  # fmt: skip
FILTERS = ("prompt_filter_embedding", "safety_checker")  # they refuse, and change no picture
LOADED = ("published_unet",)  # drawn in tests/methods/test_methods_unet_checkpoint.py
REFUSED = ("hfi", "hfi_proxy", "mace", "salun", "spm", "saeuron", "advunlearn", "concept_steerers")


@lru_cache(maxsize=1)
def configs() -> dict[str, Mapping[str, Any]]:
    names = [*DRAWN, *FILTERS, *REFUSED]
    jobs = compose_jobs([f"method={','.join(names)}"], multirun=True)
    return {name: job.methods[0] for name, job in zip(names, jobs, strict=True)}


def made(preset: str, **changes: Any) -> Method:
    """Build a preset with its small settings; nested ones are merged."""
    config = dict(configs()[preset])
    for key, value in {**DRAWN.get(preset, ({},))[0], **changes}.items():
        config[key] = {**config[key], **value} if isinstance(value, Mapping) else value
    method = build(config)
    assert isinstance(method, Method)
    return method


def stock(model: LoadedModel, items: list[ImageItem], **texts: Any) -> np.ndarray:
    generators = [torch.Generator().manual_seed(item.seed) for item in items]
    images = model.pipe(prompt=[item.prompt for item in items], num_inference_steps=STEPS, height=SIZE, width=SIZE,
                        generator=generators, guidance_scale=items[0].guidance_scale, **texts).images
    return np.stack([np.asarray(image) for image in images])


def drawn(method: Method, artifact: Any = None, count: int = 2, model: LoadedModel | None = None) -> np.ndarray:
    with attached(model or random_xl_model(), [method], [artifact]) as session:
        return pixels(session.generate(make_items(count), make_settings(STEPS)))


def state(model: LoadedModel) -> dict[str, bytes]:
    second = model.pipe.text_encoder_2.state_dict()
    return checksum(model) | {f"text_2.{name}": value.numpy().tobytes() for name, value in second.items()}


@contextmanager
def told_to_the_denoiser(model: LoadedModel) -> Iterator[list[dict[str, Any]]]:
    """Collect the keyword arguments of each denoiser call."""
    calls: list[dict[str, Any]] = []
    original = model.denoiser.forward
    model.denoiser.forward = lambda *a, **k: (calls.append(k), original(*a, **k))[1]
    try:
        yield calls
    finally:
        del model.denoiser.forward


@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("forces_zeros", [True, False])
def test_none_is_the_stock_pipeline(name, forces_zeros):
    model = random_xl_model() if forces_zeros else load_model(random_xl_config(forces_zeros=False))
    with scheduler(model, name):
        assert grey_levels(drawn(NoMethod(), model=model), stock(model, make_items(2))) <= 1
        assert model.forces_zeros == forces_zeros


def test_zeroed_and_encoded_empty_prompts_draw_differently():
    """Otherwise the two cases above could not be told apart."""
    empty = [replace(item, negative_prompt="") for item in make_items(2)]
    model = random_xl_model()
    ours = pixels(run(model, [NoMethod()], empty, steps=STEPS))
    assert grey_levels(ours, stock(model, empty, negative_prompt=["", ""])) <= 1
    assert grey_levels(ours, drawn(NoMethod())) > 2


def test_negative_prompt_is_the_stock_pipelines_in_both_encoders_and_pooled():
    model, items = random_xl_model(), make_items(2)
    ours = drawn(NegativePrompt("a bomb"))
    assert grey_levels(ours, stock(model, items, negative_prompt=["a bomb"] * 2)) <= 1
    bundle = bundle_of(model, [replace(items[0], negative_prompt="a bomb"), items[1]])
    assert torch.equal(bundle.uncond[0], model.embed("a bomb")) and not bundle.uncond[1].any()
    assert torch.equal(bundle.pooled_uncond[0], model.pooled("a bomb")) and not bundle.pooled_uncond[1].any()


def test_texts_are_read_by_both_encoders():
    model = random_xl_model()
    both, width = model.embed("a bomb"), model.pipe.text_encoder.config.hidden_size
    ids = model.pipe.tokenizer("a bomb", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        first = model.pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-2][0]
        second = model.pipe.text_encoder_2(ids, output_hidden_states=True)
    assert torch.equal(both, torch.cat([first, second.hidden_states[-2][0]], -1)) and both.shape == (77, 2 * width)
    assert torch.equal(model.pooled("a bomb"), second.text_embeds[0])


def test_a_prompt_that_one_of_the_encoders_cuts_is_flagged(monkeypatch):
    model, item = random_xl_model(), make_items(1)[0]
    assert run(model, [NoMethod()], [item], steps=STEPS)[0].flags == ()
    monkeypatch.setattr(model.pipe.tokenizer_2, "model_max_length", 4)
    assert model.is_truncated(item.prompt) and TRUNCATED == "truncated"


def test_training_tells_the_denoiser_what_the_stock_pipeline_does():
    model, items = random_xl_model(), make_items(1)
    with told_to_the_denoiser(model) as calls:
        stock(model, items)
    ours = denoiser_inputs(model, torch.zeros(1, 4, SIZE // 4, SIZE // 4), condition(model, [items[0].prompt]))
    theirs = calls[0]
    assert torch.equal(ours["encoder_hidden_states"], theirs["encoder_hidden_states"][1:])
    for key in ("text_embeds", "time_ids"):
        assert torch.equal(ours["added_cond_kwargs"][key], theirs["added_cond_kwargs"][key][1:])
    assert ours["added_cond_kwargs"]["time_ids"].tolist() == [[SIZE, SIZE, 0, 0, SIZE, SIZE]]
    assert not unconditional(model, 2).embeds.any() and not unconditional(model, 2).pooled.any()


def test_latents_for_training_are_the_stock_pipelines():
    model = random_xl_model()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    c, u = condition(model, ["a bomb"]), unconditional(model, 1)
    ours = PartialDenoising(model.scheduler("ddim"), STEPS, 3.0).run(frozen_denoise(model), noise, c, u, STEPS)
    theirs = model.pipe("a bomb", latents=noise, num_inference_steps=STEPS, guidance_scale=3.0, height=SIZE, width=SIZE,
                        output_type="latent").images
    assert torch.allclose(ours, theirs, atol=1e-4)


@dataclass(frozen=True)
class Pooled(Method):
    """Asks for a row, and moves the pooled embedding of the conditional one."""

    name: str = "pooled"
    kind: ClassVar[str] = "pooled"
    shift: float = 0.0

    def embeds(self, ctx, bundle):
        return replace(bundle, pooled_cond=bundle.pooled_cond + self.shift) if self.shift else bundle

    def rows(self, ctx):
        return [ExtraRow("extra", ctx.model.embed("a bomb"), ctx.model.pooled("a bomb"))]


def test_a_row_has_its_own_pooled_embedding_and_the_images_time_ids():
    model = random_xl_model()
    with told_to_the_denoiser(model) as calls:
        drawn(Pooled())
    added = calls[0]["added_cond_kwargs"]
    assert len(added["text_embeds"]) == len(added["time_ids"]) == 6
    assert all(torch.equal(row, model.pooled("a bomb")) for row in added["text_embeds"][4:])
    assert (added["time_ids"] == added["time_ids"][0]).all()


def test_an_edited_pooled_embedding_reaches_the_denoiser_and_the_picture():
    model = random_xl_model()
    with told_to_the_denoiser(model) as calls:
        moved = drawn(Pooled(shift=2.0))
    texts = [item.prompt for item in make_items(2)]
    expected = condition(model, texts).pooled + 2.0
    assert all(torch.equal(call["added_cond_kwargs"]["text_embeds"][2:4], expected) for call in calls)
    assert not calls[0]["added_cond_kwargs"]["text_embeds"][:2].any()
    assert not np.array_equal(moved, drawn(Pooled()))


@pytest.mark.parametrize("preset", DRAWN)
def test_a_method_draws_something_else_and_gives_every_byte_back_and_off_it_is_none(preset):
    model = random_xl_model()
    model.embed("a text")  # transformers' encoders keep the hooks of their first hidden states
    before, hooks = state(model), all_hooks(model)
    method = made(preset)
    method.check(random_xl_config(), 5.0)
    artifact = trained(method, model)
    none, ours = drawn(NoMethod()), drawn(method, artifact)
    assert not np.array_equal(ours, none) and ours.std() > 0
    off = made(preset, **DRAWN[preset][1])
    assert not off.trains and np.array_equal(drawn(off), none)
    with pytest.raises(ZeroDivisionError), attached(model, [method, Failing()], [artifact, None]) as session:
        session.generate(make_items(2), make_settings(STEPS))
    assert state(model) == before and all_hooks(model) == hooks
    assert all(parameter.requires_grad for parameter in model.denoiser.parameters())


def test_every_kind_of_method_is_said_to_draw_or_to_refuse():
    def kind(path):
        return yaml.safe_load(path.read_text()).get("_target_")

    known = {kind(conf_dir() / "method" / f"{name}.yaml") for name in [*DRAWN, *FILTERS, *LOADED, *REFUSED, "none"]}
    shipped = {kind(path) for path in (conf_dir() / "method").glob("*.yaml")}
    assert shipped <= known | {None, "methods.prompt_filter.PromptFilter"}


@pytest.mark.parametrize("preset", ["sld_medium", "sega", "trasce"])
def test_a_v_prediction_twin_draws_the_same(preset):
    expected = drawn(made(preset))
    with v_twin(random_xl_model()):
        assert grey_levels(drawn(made(preset)), expected) <= 1


@pytest.mark.parametrize("preset", ["safedir", "interpret_safe", "esd_x", "sdd", "concept_ablation"])
def test_training_works_in_v(preset):
    model = random_xl_model()
    own, model.pipe.scheduler = model.pipe.scheduler, make_scheduler(model.pipe.scheduler, None)
    model.pipe.scheduler.register_to_config(prediction_type="v_prediction")
    model.prediction_type = "v_prediction"
    try:
        artifact = trained(made(preset), model)
    finally:
        model.pipe.scheduler, model.prediction_type = own, "epsilon"
    assert artifact is not None and all(value.isfinite().all() for value in artifact.tensors.values())


def test_a_prompts_pooled_embedding_is_part_of_what_is_predicted():
    model = random_xl_model()
    z, t, c = torch.randn(1, 4, 8, 8), torch.tensor(500), condition(model, ["a bomb"])
    with torch.no_grad():
        own, other = (predict_epsilon(model, model.pipe.scheduler, z, t, replace(c, pooled=pooled))
                      for pooled in (c.pooled, -c.pooled))
    assert not torch.allclose(own, other, atol=1e-4)


def test_safree_edits_the_second_encoder_alone():
    method, model = SAFREE(["skull", "bomb"], svf=False, negative_prompt=False), random_xl_model()
    with told_to_the_denoiser(model) as edited:
        drawn(method, count=1)
    with told_to_the_denoiser(model) as plain:
        drawn(NoMethod(), count=1)
    ours, theirs = edited[0]["encoder_hidden_states"], plain[0]["encoder_hidden_states"]
    assert torch.equal(ours[..., :32], theirs[..., :32]) and not torch.equal(ours[..., 32:], theirs[..., 32:])
    assert torch.equal(edited[0]["added_cond_kwargs"]["text_embeds"], plain[0]["added_cond_kwargs"]["text_embeds"])
    for change in ({"svf": True}, {"svf": False, "lra": "low"}):
        with pytest.raises(IncompatibleError, match=r"method\.svf=false"):
            SAFREE(["a"], **change).check(XL, 7.5)


def test_uce_solves_for_the_embedding_of_both_encoders():
    model, method = random_xl_model(), UCE("a bomb", "a ball", lam=1e-6)
    c, g = (side[0].double() for side in paired_tokens(model, "a bomb", "a ball", "last"))
    assert len(c) == 64 and torch.equal(c, model.embed("a bomb")[subject_index(model, "a bomb")].double())
    changes = deltas(model.denoiser, method.edit(model))
    for name, W in projections(model.denoiser).items():
        assert torch.allclose((W + changes[name]).double() @ c, W.double() @ g, atol=1e-3)


def test_esds_sets_are_those_of_its_sdxl_script():
    denoiser = random_xl_model().denoiser
    chosen = parameter_names(denoiser, "esd_u", PARAMETER_SETS)
    assert "mid_block.attentions.0.proj_in.weight" in chosen
    assert not [name for name in chosen if "emb" in name or "attn2" in name or "block" not in name]
    assert {name for name in parameter_names(denoiser, "noxattn") if "add_embedding" in name}


def test_safedirs_pooled_direction_is_learned_only_where_it_is_asked_for():
    model, plain = random_xl_model(), made("safedir")
    assert "pooled" not in plain.training_identity()["params"]["training"]
    assert set(trained(plain, model).tensors) == {"b.0", "a.0"}
    method = made("safedir", training={**DRAWN["safedir"][0]["training"], "pooled": True})
    artifact = trained(method, model)
    assert set(artifact.tensors) == {"b.0", "a.0", "pool.0"} and artifact.tensors["pool.0"].any()
    with told_to_the_denoiser(model) as calls:
        drawn(method, artifact, count=1)
    texts = condition(model, [make_items(1)[0].prompt]).pooled
    assert torch.equal(calls[0]["added_cond_kwargs"]["text_embeds"][1:], texts)
    assert torch.equal(calls[-1]["added_cond_kwargs"]["text_embeds"][1:], texts + artifact.tensors["pool.0"])
    with pytest.raises(IncompatibleError, match="pooled=false"):
        method.check(random_config(), 5.0)
    with pytest.raises(InvalidValueError, match="pooled"):
        made("safedir", training={"pooled": "yes"})


def test_filters_work_on_it():
    model, items = random_xl_model(), make_items(2)
    method = made("prompt_filter_embedding", concepts=[items[0].prompt], threshold=0.9999)
    method.check(XL, 5.0)
    assert [result.status.value for result in run(model, [method], items, steps=STEPS)] == ["refused", "ok"]
    made("safety_checker").check(XL, 5.0)


@pytest.mark.parametrize("preset", REFUSED)
def test_a_method_that_cannot_work_on_it_says_why_in_one_line(preset):
    with pytest.raises(IncompatibleError, match=r"model xl is sdxl: it has two text encoders") as caught:
        made(preset).check(XL, 7.5)
    assert "\n" not in str(caught.value) and made(preset).name in str(caught.value)


@pytest.mark.parametrize(("family", "why"), [("sd3", "velocity"), ("flux", "velocity"), ("if", "pixels")])
def test_flow_and_pixel_models_are_refused_with_the_reason(family, why):
    works = {"negative_prompt", *(("sld_medium", "sega", "trasce") if family in ("sd3", "if") else ())}
    for preset in [*(set(DRAWN) - works), *REFUSED]:
        with pytest.raises(IncompatibleError, match=rf"model new is {family}: .*{why}"):
            made(preset).check({"name": "new", "family": family}, 7.5)


def test_plan_shows_what_is_refused_before_anything_loads(tmp_path, capsys):
    words = ["mode=plan", "bench=micro_i2p", f"results={tmp_path / 'out'}", "model.family=sdxl",
             f"model.source={random_xl_config()['source']}"]
    assert main([*words, "method=[hfi_proxy,sld_medium]"]) == 2
    error = capsys.readouterr().err
    assert "is sdxl: it has two text encoders" in error and error.count("\n") == 1
    assert main([*words, "method=sld_medium"]) == 0
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(("config", "said"), [
    (lambda: random_xl_config() | {"family": "sd1"}, "model.family=sdxl"),
    (lambda: random_config() | {"family": "sdxl"}, "model.family=sd1"),
    (lambda: random_config() | {"family": "flux"}, "model.family=sd1"),
    (lambda: random_config() | {"family": "fluxx"}, "supported families: sd1, sd2, sdxl, if, sd3, flux, wuerstchen"),
])  # fmt: skip
def test_a_wrong_family_is_one_line(config, said):
    with pytest.raises(IncompatibleError, match=said):
        load_model(config())


def test_weights_that_treat_empty_prompts_otherwise_have_another_fingerprint(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(random_xl_config()["source"], folder)
    config = random_xl_config() | {"source": str(folder)}
    same = weights_fingerprint(config)
    assert same == weights_fingerprint(random_xl_config())
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"force_zeros_for_empty_prompt": true',
                                               '"force_zeros_for_empty_prompt": false'))
    assert weights_fingerprint(config) != same


def test_a_half_precision_vae_is_held_in_float32_where_the_stock_pipeline_decodes_so():
    pipe = load_model(random_xl_config()).pipe
    for change, dtype in (({}, torch.float32), ({"vae_dtype": "float16"}, torch.float16), ({"family": "sd1"},
                          torch.float16)):
        pipe.vae.half()
        _configure(pipe, random_xl_config() | change, "cpu")
        assert pipe.vae.dtype == dtype


def test_sld_on_it_is_the_formula_on_the_three_predictions():
    """One step, so that the picture follows eps = u + w (p - u - mu (s - u)) of the first call."""
    model, item, method = random_xl_model(), make_items(1)[0], SLD("a bomb", 0, 5000, 1.0, 0.0, 0.0)
    own = make_scheduler(model.pipe.scheduler, None)
    own.set_timesteps(1)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(item.seed))
    t = own.timesteps[0]
    with torch.no_grad():
        p, s = (predict_epsilon(model, own, z, t, condition(model, [text])) for text in (item.prompt, "a bomb"))
        u = predict_epsilon(model, own, z, t, unconditional(model, 1))
    mu = ((p - s).abs() * 5000).clamp(max=1).masked_fill(p - s >= 1.0, 0)
    expected = own.step(u + item.guidance_scale * (p - u - mu * (s - u)), t, z).prev_sample
    with attached(model, [method], [None]) as session:
        ours = session._latents([item], make_settings(1))
    assert torch.allclose(ours, expected, atol=1e-4)
