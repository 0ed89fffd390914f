"""ESD: its target in both notations, presets, who makes the latents, and the artifact it leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from harness.errors import HarnessError, IncompatibleError, InvalidValueError, StoppedError, UnknownNameError
from harness.lib.paths import conf_dir
from harness.lib.targets import build
from harness.models.loaded import make_scheduler
from harness.sampling.prediction_types import alpha_bar, from_epsilon
from harness.training.artifacts import ArtifactCache, StoredArtifact, artifact_key, prepare_all
from harness.training.fine_tuning import PartialDenoising, applied_deltas
from methods import esd, sdd
from methods.esd import ESD, PRESETS
from tests.method_parity import agree
from tests.sampling.test_denoiser import checksum
from tests.support.fixtures_models import micro_model, random_model

QUICK: dict[str, Any] = {"concept": "a bomb", "iterations": 3, "learning_rate": 1e-3, "steps": 4}


def quick(**changes: Any) -> ESD:
    return ESD(**(QUICK | changes))


def trained(method: ESD, model: Any = None) -> dict[str, torch.Tensor]:
    return dict(method.prepare(model or random_model(), [], lambda *_: None).tensors)


def stored(tensors: dict[str, torch.Tensor]) -> StoredArtifact:
    return StoredArtifact("key", tensors, {"base": {"weights": random_model().fingerprint}})


def test_the_release_s_target_is_the_papers_with_eta_one_less():
    u, s = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for ng in (1.0, 2.0, 4.0):
        agree("esd", (esd.target(s, s, u, ng) - (u - (ng - 1) * (s - u))).abs().max(), 1e-5)


def test_without_negative_guidance_it_has_sdds_target():
    u, s = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    assert torch.allclose(esd.target(s, s, u, 1.0), sdd.target(u), atol=1e-6)


def test_erasing_from_another_concept_moves_that_concepts_prediction():
    p, u, s = torch.tensor(5.0), torch.tensor(1.0), torch.tensor(2.0)
    assert esd.target(p, s, u, 2.0) == 3.0


@pytest.mark.parametrize(("name", "ng", "sampler", "iterations"), [
    ("esd_orig", 2.0, "edited", 1000), ("esd_repo_sd", 2.0, "base", 200), ("esd_sdd3", 4.0, "edited", 1000),
])  # fmt: skip
def test_presets_are_the_published_recipes(name, ng, sampler, iterations):
    method = ESD(concept="a bomb", preset=name)
    assert (method.negative_guidance, method.sampler, method.iterations) == (ng, sampler, iterations)
    assert ESD(concept="a bomb", preset=name, iterations=7).iterations == 7


def test_a_presets_clipping_can_be_switched_off_and_stays_off():
    method = ESD(concept="a bomb", preset="esd_sdd3", max_grad_norm=0)
    assert not method.max_grad_norm and not method.rename_concepts(str.upper).max_grad_norm
    assert ESD(concept="a bomb", preset="esd_sdd3").max_grad_norm == 1.0


def test_a_preset_is_known_by_its_values_and_not_by_its_name():
    same = ESD(concept="a bomb", preset="esd_sdd3", **PRESETS["esd_orig"], max_grad_norm=1.0)
    assert replace(same, max_grad_norm=None, preset="esd_orig").identity() == ESD(concept="a bomb").identity()
    assert ESD(concept="a bomb", preset="esd_sdd3").identity() != ESD(concept="a bomb").identity()


@pytest.mark.parametrize(("config", "parameters"), [("esd_x", "xattn"), ("esd_u", "esd_u"),
                                                    ("esd_x_strict", "x_strict")])
def test_configs_differ_in_what_they_train(config, parameters):
    base = yaml.safe_load((conf_dir() / "method" / "esd_x.yaml").read_text())
    own = yaml.safe_load((conf_dir() / "method" / f"{config}.yaml").read_text())
    given = {key: value for key, value in (base | own).items()
             if not (isinstance(value, str) and value.startswith("${")) and key != "defaults"}
    assert build(given | {"concept": "a bomb"}).parameters == parameters


def test_training_lowers_the_distance_to_its_target_and_repeats_to_the_bit():
    method = quick(iterations=8, batch=2)
    first = method.prepare(random_model(), [], lambda *_: None)
    assert np.mean(first.meta["losses"][-3:]) < np.mean(first.meta["losses"][:3])
    again, other = trained(method), trained(quick(iterations=8, batch=2, seed=1))
    assert all(torch.equal(again[name], value) for name, value in first.tensors.items())
    assert not all(torch.equal(other[name], value) for name, value in first.tensors.items())
    assert all("attn2" in name for name in again)


@pytest.mark.parametrize("sampler", ["edited", "base"])
def test_latents_come_from_the_edited_model_or_from_the_frozen_one(sampler, monkeypatch):
    seen = []
    run = PartialDenoising.run
    monkeypatch.setattr(PartialDenoising, "run", lambda self, denoise, *a: (seen.append(denoise), run(
        self, denoise, *a))[1])
    trained(quick(sampler=sampler))
    assert all((getattr(denoise, "__self__", None) is not None) == (sampler == "edited") for denoise in seen)
    assert len(seen) == 3


@pytest.mark.parametrize("change", [{"preset": "esd_repo_sd"}, {"scheduler": "pndm", "timestep": "grid"},
                                    {"erase_from": "a doctor"}, {"concept": ["a bomb", "a skull"]},
                                    {"parameters": "esd_u"}])
def test_every_variant_trains_and_leaves_model_and_global_randomness_alone(change):
    model = random_model()
    model.denoiser.zero_grad(set_to_none=True)
    before, state = checksum(model), torch.get_rng_state()
    assert any(delta.any() for delta in trained(quick(**change)).values())
    assert checksum(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value.requires_grad and value.grad is None for value in model.denoiser.parameters())


def test_a_v_prediction_twin_has_the_same_target():
    """psi is affine in the predictions with weights that add up to one: conversion commutes with it."""
    z, u, s = (torch.randn(1, 4, 8, 8) for _ in range(3))
    in_v = esd.target(*(from_epsilon(e, z, "v_prediction", 0.3) for e in (s, s, u)), 2.5)
    assert torch.allclose(in_v, from_epsilon(esd.target(s, s, u, 2.5), z, "v_prediction", 0.3), atol=1e-4)


def test_a_v_prediction_model_makes_its_twins_latents():
    model = random_model()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    c, u = model.encode(["a bomb"]), model.encode([""])
    v_scheduler = make_scheduler(model.pipe.scheduler, "ddim")
    v_scheduler.register_to_config(prediction_type="v_prediction")

    def eps(z, t, embeds):
        return model.denoiser(z, t, encoder_hidden_states=embeds, return_dict=False)[0]

    def v(z, t, embeds):
        return from_epsilon(eps(z, t, embeds), z, "v_prediction", alpha_bar(v_scheduler, float(t)))

    ours = PartialDenoising(model.scheduler("ddim"), 5, 3.0).run(eps, noise, c, u, 4)
    twin = PartialDenoising(v_scheduler, 5, 3.0).run(v, noise, c, u, 4)
    assert torch.allclose(ours, twin, atol=1e-4)


def test_training_that_is_stopped_leaves_the_model_as_it_was():
    model = random_model()
    before = checksum(model)

    def stop(what: str, done: int, total: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        quick().prepare(model, [], stop)
    assert checksum(model) == before and next(model.denoiser.parameters()).requires_grad


def test_training_that_breaks_down_says_at_which_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    model, steps = random_model(), iter([1.0, float("nan")])
    before = checksum(model)
    monkeypatch.setattr(esd, "target", lambda p, s, u, ng: u * next(steps))
    with pytest.raises(HarnessError, match=r"esd diverged at step 2: .*The state after step 1 is saved in"):
        prepare_all(model, [quick()], ArtifactCache(tmp_path))
    assert checksum(model) == before
    assert [file.name for file in tmp_path.rglob("*.safetensors")] == ["checkpoint.safetensors"]


def test_strength_reuses_the_artifact_and_the_recipe_does_not():
    base = {"weights": "w"}
    assert artifact_key(quick(strength=0.5), base, []) == artifact_key(quick(name="other"), base, [])
    for change in ({"learning_rate": 2e-3}, {"negative_guidance": 3.0}, {"seed": 1}, {"parameters": "x_strict"}):
        assert artifact_key(quick(**change), base, []) != artifact_key(quick(), base, [])
    assert quick(strength=0.5).identity() != quick().identity()


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"concept": ""}, InvalidValueError, "method.concept=''"),
    ({"concept": []}, InvalidValueError, "method.concept"),
    ({"concept": ["a bomb", ""]}, InvalidValueError, "method.concept"),
    ({"preset": "esd_orgi"}, UnknownNameError, "Did you mean: esd_orig"),
    ({"parameters": "xatn"}, UnknownNameError, "Did you mean: xattn"),
    ({"sampler": "bse"}, UnknownNameError, "base"),
    ({"iterations": 0}, InvalidValueError, "method.iterations=0"),
    ({"learning_rate": "fast"}, InvalidValueError, "method.learning_rate=fast"),
    ({"guidance_scale": 0.5}, InvalidValueError, "method.guidance_scale=0.5"),
    ({"strength": float("nan")}, InvalidValueError, "method.strength=nan"),
    ({"erase_from": ""}, InvalidValueError, "method.erase_from"),
    ({"scheduler": "pndm", "timestep": "bin"}, InvalidValueError, "one bin behind"),
    ({"max_grad_norm": -1}, InvalidValueError, "method.max_grad_norm=-1"),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    with pytest.raises(error, match=said):
        quick(**change)


def test_other_families_are_refused_before_anything_loads():
    with pytest.raises(IncompatibleError, match="model flux is flux"):
        quick().check({"name": "flux", "family": "flux"}, 3.5)
    quick().check({"name": "sd20", "family": "sd2"}, 7.5)


def test_on_the_embedded_world_the_concepts_noise_moves_against_the_concept():
    model = micro_model()
    method = ESD(concept="bomb", iterations=8, learning_rate=2e-3, steps=4, batch=2)
    z, t = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(9)), torch.tensor(700)

    def noise(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model.denoiser(z, t, encoder_hidden_states=model.embed(text).expand(8, -1, -1)).sample

    s, u = noise("bomb"), noise("")
    with applied_deltas(model.denoiser, trained(method, model)):
        left = ((noise("bomb") - u) * (s - u)).sum() / (s - u).square().sum()
    assert left < 0.7
