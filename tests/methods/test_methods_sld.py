"""SLD against the pipeline that diffusers ships, and its formulas against numbers worked out by hand."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from harness.errors import IncompatibleError, InvalidValueError
from harness.lib.paths import conf_dir
from harness.lib.targets import build
from harness.method import scaled_calls
from harness.models.loaded import LoadedModel, make_scheduler
from harness.sampling.batches import BatchRunner
from harness.sampling.session import attached, initial_noise
from methods.sld import SLD, momentum, safety_guidance, safety_scale
from tests.method_parity import agree
from tests.support.fixtures_models import SIZE, make_items, make_settings, micro_model, random_model

PRESETS = {"sld_weak": None, "sld_weak_diffusers": "WEAK", "sld_medium": "MEDIUM", "sld_strong": "STRONG",
           "sld_max": "MAX"}  # fmt: skip
CONCEPT = "skull, bomb, flame, hazard"


def preset(name: str, **changes: Any) -> SLD:
    config = yaml.safe_load((conf_dir() / "method" / f"{name}.yaml").read_text())
    return build(config | {"concept": CONCEPT} | changes)


@cache
def reference(model_name: str) -> Any:
    """Build diffusers' own SLD pipeline on the same networks."""
    from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

    pipe = (random_model() if model_name == "random" else micro_model()).pipe
    safe = StableDiffusionPipelineSafe(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, pipe.scheduler, None,
                                       None, requires_safety_checker=False)
    safe.set_progress_bar_config(disable=True)
    safe.safety_concept = CONCEPT
    return safe


def grey_levels(model: LoadedModel, method: SLD, scheduler: str, batch: int, steps: int, size: int) -> int:
    """Return the largest pixel difference between our images and the reference's."""
    items, own = make_items(batch), model.pipe.scheduler
    safe = reference("random" if model is random_model() else "micro")
    noise, _ = initial_noise([item.seed for item in items], (4, size // 4, size // 4))
    model.pipe.scheduler = make_scheduler(own, scheduler)
    safe.scheduler = make_scheduler(own, scheduler)
    try:
        with attached(model, [method], [None]) as session:
            ours = session.generate(items, make_settings(steps, size))
    finally:
        model.pipe.scheduler = own
    theirs = safe(
        [item.prompt for item in items], num_inference_steps=steps, guidance_scale=5.0, latents=noise,
        height=size, width=size, output_type="pil", sld_guidance_scale=method.scale, sld_warmup_steps=method.warmup,
        sld_threshold=method.threshold, sld_momentum_scale=method.momentum_scale, sld_mom_beta=method.momentum_beta,
    ).images  # fmt: skip
    return max(int(np.abs(a.image.astype(int) - np.asarray(b).astype(int)).max())
               for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("scheduler", "batch"), [("ddim", 1), ("pndm", 4)])
@pytest.mark.parametrize("name", PRESETS)
def test_sld_is_diffusers_own_on_random_weights(name, scheduler, batch):
    agree("sld", grey_levels(random_model(), preset(name, window="calls"), scheduler, batch, 12, 32), 1)


@pytest.mark.parametrize(("name", "scheduler", "batch"), [
    ("sld_weak", "pndm", 1), ("sld_weak_diffusers", "ddim", 1), ("sld_medium", "pndm", 1), ("sld_strong", "ddim", 1),
    ("sld_max", "pndm", 3),
])  # fmt: skip
def test_sld_is_diffusers_own_on_the_embedded_model(name, scheduler, batch):
    """Each preset once; both batch sizes are drawn with random weights."""
    steps = preset(name).warmup + 4
    agree("sld", grey_levels(micro_model(), preset(name, window="calls"), scheduler, batch, steps, 64), 1)


def test_rows_of_low_guidance_and_own_size_are_drawn_by_a_guidance_method():
    low, wide = make_items(2, guidance_scale=1.01)
    items = [low, replace(wide, size=(2 * SIZE, SIZE)), replace(low, guidance_scale=20.0, size=(SIZE, 2 * SIZE))]
    with attached(random_model(), [preset("sld_max")], [None]) as session:
        made = BatchRunner(session, make_settings(2, batch_size=2), lambda: None).run(items)
        with pytest.raises(IncompatibleError, match="above 1"):
            session.generate([replace(low, guidance_scale=1.0)], make_settings(2, batch_size=1))
    assert [one.image.shape for one in made] == [(SIZE, SIZE, 3), (SIZE, 2 * SIZE, 3), (2 * SIZE, SIZE, 3)]


def test_the_reference_does_something_to_compare_with():
    model, items = random_model(), make_items(1)
    def draw(method):
        with attached(model, [method], [None]) as session:
            return session.generate(items, make_settings(12))[0].image.astype(int)
    off, weak, strongest = (draw(m) for m in (preset("sld_max", scale=0), preset("sld_weak", warmup=0),
                                              preset("sld_max")))
    assert np.abs(strongest - off).max() > 2
    assert np.abs(weak - off).mean() < np.abs(strongest - off).mean()


@pytest.mark.parametrize(("name", "constant"), [(n, c) for n, c in PRESETS.items() if c])
def test_shipped_presets_are_those_of_diffusers(name, constant):
    from diffusers.pipelines.deprecated.stable_diffusion_safe import SafetyConfig

    ours, theirs = preset(name), getattr(SafetyConfig, constant)
    assert (ours.warmup, ours.scale, ours.threshold, ours.momentum_scale, ours.momentum_beta) == (
        theirs["sld_warmup_steps"], theirs["sld_guidance_scale"], theirs["sld_threshold"],
        theirs["sld_momentum_scale"], theirs["sld_mom_beta"])  # fmt: skip
    assert preset("sld_weak").scale == 200


def test_scale_is_clamped_to_one_and_zero_beyond_the_signed_threshold():
    p, s = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.tensor([0.0001, 9.0, 0.0, -0.005])
    assert safety_scale(p, s, s_S=1000, lam=0.01).tolist() == pytest.approx([0.1, 1.0, 0.0, 1.0], rel=1e-3)


def test_momentum_holds_the_previous_scaled_momentum():
    one = torch.ones(1)
    gamma = safety_guidance(mu=0.5 * one, s=3 * one, u=one, s_m=0.5, nu=4 * one)
    assert gamma.item() == 0.5 * (3 - 1) + 0.5 * 4
    assert momentum(4 * one, gamma, beta_m=0.7).item() == pytest.approx(0.7 * 4 + 0.3 * 3)


@pytest.mark.parametrize(("steps", "expected"), [(50, 7), (25, 4), (20, 3), (100, 14)])
def test_warmup_keeps_its_share_of_the_trajectory(steps, expected):
    assert scaled_calls(7, steps, "fraction") == expected
    assert scaled_calls(7, steps, "calls") == 7


@pytest.mark.parametrize(("change", "named"), [
    ({"warmup": -1}, "method.warmup=-1"),
    ({"scale": "much"}, "method.scale=much"),
    ({"momentum_beta": 1.5}, "method.momentum_beta=1.5"),
    ({"concept": ""}, "method.concept"),
])  # fmt: skip
def test_values_out_of_range_are_named(change, named):
    with pytest.raises(InvalidValueError, match=named):
        preset("sld_max", **change)


def test_whole_and_decimal_numbers_are_one_identity():
    assert preset("sld_max", scale=5000).identity() == preset("sld_max", scale=5000.0).identity()


@pytest.mark.parametrize("guidance", [1.0, 0.0])
def test_guidance_off_is_refused_without_loading(guidance):
    with pytest.raises(IncompatibleError, match="classifier-free guidance"):
        preset("sld_medium").check({"name": "micro"}, guidance)
    preset("sld_medium").check({"name": "micro"}, 1.5)


def test_a_model_without_negative_branch_is_refused():
    with pytest.raises(IncompatibleError, match="no unconditional branch"):
        preset("sld_medium").check({"name": "distilled", "negative_branch": False}, 3.5)


def test_cost_is_one_row_unless_off():
    assert preset("sld_max").denoiser_rows == 1
    assert preset("sld_max", scale=0).denoiser_rows == 0
    assert "torch" not in inspect.getsource(SLD).split("def rows")[0]
