"""SEGA against the pipeline that diffusers ships, and its formulas against numbers worked out by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from harness.errors import IncompatibleError, InvalidValueError, UnknownNameError
from harness.lib.paths import conf_dir
from harness.lib.targets import build
from harness.models.loaded import LoadedModel, make_scheduler
from harness.sampling.session import attached, initial_noise
from methods.none import NoMethod
from methods.sega import SEGA, averaged, edit_guidance, momentum
from tests.method_parity import agree
from tests.sampling.test_denoiser import pixels, run, scheduler
from tests.support.fixtures_models import make_items, make_settings, micro_model, random_model

PRESETS = ("sega", "sega_i2p_medium", "sega_i2p_strong", "sega_i2p_max")
CONCEPT = "skull, bomb, flame, hazard"
SEVERAL: dict[str, Any] = {
    "concept": ["a bomb", "a round person", "a flame"], "reverse": [True, False, True], "scale": [5.0, 8.0, 6.0],
    "warmup": [2, 5, 3], "cooldown": [None, 9, 4], "threshold": [0.9, 0.5, 0.0], "weights": [1.0, 2.0, 0.5],
    "momentum_scale": 0.3, "momentum_beta": 0.6,
}  # fmt: skip


def preset(name: str, **changes: Any) -> SEGA:
    folder = conf_dir() / "method"
    texts = [(folder / file).read_text().replace("${oc.select:model.sega.scale,5.0}", "5.0")
             for file in ("sega.yaml", f"{name}.yaml")]
    config = yaml.safe_load(texts[0]) | yaml.safe_load(texts[1])
    config.pop("defaults", None)
    return build(config | {"concept": CONCEPT} | changes)


@cache
def reference(model_name: str) -> Any:
    """Build diffusers' own SEGA pipeline on the same networks."""
    from diffusers.pipelines.deprecated.semantic_stable_diffusion import SemanticStableDiffusionPipeline

    pipe = (random_model() if model_name == "random" else micro_model()).pipe
    sega = SemanticStableDiffusionPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, pipe.scheduler, None,
                                           None, requires_safety_checker=False)
    sega.set_progress_bar_config(disable=True)
    return sega


def difference(model: LoadedModel, method: SEGA, name: str, batch: int, steps: int, size: int, first_seed: int = 0
               ) -> float:
    """Return the largest difference of a pixel, in grey levels, between our images and the reference's."""
    items, own = make_items(batch, first_seed=first_seed), model.pipe.scheduler
    sega = reference("random" if model is random_model() else "micro")
    noise, _ = initial_noise([item.seed for item in items], (4, size // 4, size // 4))
    sega.scheduler = make_scheduler(own, name)
    with scheduler(model, name):
        ours = run(model, [method], items, steps=steps, size=size)
    never = [10_000 if calls is None else calls for calls in method.cooldown]
    theirs = sega(
        [item.prompt for item in items], num_inference_steps=steps, guidance_scale=5.0, latents=noise,
        height=size, width=size, output_type="pil", editing_prompt=list(method.concept),
        reverse_editing_direction=list(method.reverse), edit_guidance_scale=list(method.scale),
        edit_warmup_steps=list(method.warmup), edit_cooldown_steps=never, edit_threshold=list(method.threshold),
        edit_weights=list(method.weights), edit_momentum_scale=method.momentum_scale,
        edit_mom_beta=method.momentum_beta,
    ).images  # fmt: skip
    return max(np.abs(a.image.astype(int) - np.asarray(b).astype(int)).max() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("name", "batch"), [("ddim", 1), ("pndm", 4)])
@pytest.mark.parametrize("method", PRESETS)
def test_sega_is_diffusers_own_on_random_weights(method, name, batch):
    agree("sega", difference(random_model(), preset(method, window="calls"), name, batch, 12, 32), 1)


@pytest.mark.parametrize(("model", "name", "batch"), [
    (random_model, "ddim", 4), (random_model, "pndm", 1), (micro_model, "pndm", 1),
])  # fmt: skip
def test_several_concepts_are_diffusers_own(model, name, batch):
    size = 32 if model is random_model else 64
    agree("sega", difference(model(), SEGA(**SEVERAL, window="calls"), name, batch, 12, size), 1)


@pytest.mark.parametrize(("method", "name"), [("sega", "ddim"), ("sega_i2p_max", "pndm")])
def test_sega_is_diffusers_own_on_the_embedded_model(method, name):
    """From seed 10: at seed 3 two pixels tie at the quantile, and rounding of 1e-5 decides which of them is kept."""
    agree("sega", difference(micro_model(), preset(method, window="calls"), name, 2, 13, 64, first_seed=10), 1)


def test_latents_are_diffusers_own_to_rounding():
    """Before pixels hide it: the largest difference of a latent is rounding."""
    model, method = random_model(), SEGA(**SEVERAL, window="calls")
    item = make_items(1)[0]
    noise, _ = initial_noise([item.seed], (4, 8, 8))
    theirs: list[torch.Tensor] = []
    sega = reference("random")
    sega.scheduler = make_scheduler(model.pipe.scheduler, None)
    sega([item.prompt], num_inference_steps=12, guidance_scale=5.0, latents=noise, height=32, width=32,
         output_type="pil", editing_prompt=list(method.concept), reverse_editing_direction=list(method.reverse),
         edit_guidance_scale=list(method.scale), edit_warmup_steps=list(method.warmup),
         edit_cooldown_steps=[10_000, 9, 4], edit_threshold=list(method.threshold), edit_weights=list(method.weights),
         edit_momentum_scale=0.3, edit_mom_beta=0.6, callback=lambda i, t, z: theirs.append(z))  # fmt: skip
    with attached(model, [method], [None]) as session:
        ours = session._latents([item], make_settings(12))
    agree("sega_latents", (ours - theirs[-1]).abs().max() / theirs[-1].abs().max().clamp(min=1), 1e-5)


def test_the_reference_does_something_to_compare_with():
    model, items = random_model(), make_items(2)
    off = pixels(run(model, [NoMethod()], items, steps=12)).astype(int)
    mild, strong = (pixels(run(model, [preset(name)], items, steps=12)) for name in ("sega", "sega_i2p_max"))
    assert np.abs(strong - off).max() > 2
    assert np.abs(mild - off).mean() < np.abs(strong - off).mean()


def test_the_term_is_not_multiplied_by_the_guidance_scale():
    from harness.method import StepContext

    u, e = torch.zeros(2, 1, 4, 4), torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    w = torch.tensor([2.0, 9.0]).view(-1, 1, 1, 1)
    ctx = StepContext(0, 10, 10, torch.tensor(1), w, u, (), random_model(), None, {})
    method = preset("sega", warmup=0, threshold=0.0)
    preds = {"uncond": u, "cond": u, f"sega:{CONCEPT}": e}
    followed = w * method.guide(ctx, preds, torch.zeros_like(u))
    assert torch.allclose(followed, -5 * e, atol=1e-5)


def test_only_what_reaches_the_quantile_is_kept():
    u = torch.zeros(1, 2, 1, 5)
    e = torch.tensor([[[[1.0, -2.0, 3.0, -4.0, 5.0]], [[0.0, 0.0, 0.0, 0.0, 7.0]]]])
    g = edit_guidance(e, u, S_e=2.0, tau=0.5, is_reversed=True)
    assert g[0, 0, 0].tolist() == [0, 0, -6, 8, -10]
    assert g[0, 1, 0].tolist() == [0, 0, 0, 0, -14]


def test_momentum_holds_the_previous_scaled_momentum():
    assert momentum(torch.tensor(4.0), torch.tensor(3.0), beta=0.4).item() == pytest.approx(0.4 * 4 + 0.6 * 3)


def test_concepts_past_their_warmup_are_averaged_until_all_are():
    a, b = torch.ones(1), 4 * torch.ones(1)
    assert averaged([a, b], [1.0, 2.0]).item() == pytest.approx(3.0)
    assert averaged([a], [0.0]) == 0


def test_a_concept_that_cools_down_before_others_warm_up_breaks_no_image():
    """The released pipeline divides zero by zero here."""
    method = SEGA(["a bomb", "a flame"], warmup=[0, 6], cooldown=[2, None], window="calls")
    assert np.isfinite(pixels(run(random_model(), [method], make_items(1), steps=10))).all()


def test_cooldown_ends_the_edit():
    items, model = make_items(2), random_model()
    never = pixels(run(model, [preset("sega", warmup=0, cooldown=0, momentum_scale=0.0)], items, steps=6))
    assert np.array_equal(never, pixels(run(model, [preset("sega", warmup=50)], items, steps=6)))
    assert not np.array_equal(never, pixels(run(model, [preset("sega", warmup=0, cooldown=25)], items, steps=6)))


def test_lists_are_one_identity_with_single_values():
    assert preset("sega", scale=5).identity() == preset("sega", scale=[5.0], concept=[CONCEPT]).identity()


@pytest.mark.parametrize(("change", "said"), [
    ({"concept": ""}, "method.concept"),
    ({"concept": ["a", ""]}, "method.concept"),
    ({"scale": -1}, "method.scale=-1"),
    ({"scale": [1, 2]}, "method.scale has 2 values for 1 concepts"),
    ({"threshold": 1.5}, "method.threshold=1.5"),
    ({"warmup": 1.5}, "method.warmup=1.5"),
    ({"cooldown": -1}, "method.cooldown=-1"),
    ({"reverse": "yes"}, "method.reverse=yes"),
    ({"momentum_beta": 2}, "method.momentum_beta=2"),
])  # fmt: skip
def test_wrong_settings_are_named(change, said):
    with pytest.raises(InvalidValueError, match=said):
        preset("sega", **change)


def test_unknown_window_and_unfit_models_are_one_line():
    with pytest.raises(UnknownNameError, match="fraction"):
        preset("sega", window="fractions")
    with pytest.raises(IncompatibleError, match="guidance_scale=1"):
        preset("sega").check({"name": "micro"}, 1.0)
    with pytest.raises(IncompatibleError, match="flux"):
        preset("sega").check({"name": "flux", "family": "flux"}, 3.5)


def test_cost_is_a_row_for_each_concept():
    assert SEGA(**SEVERAL).denoiser_rows == 3 and preset("sega").denoiser_rows == 1
    assert preset("sega", scale=0).denoiser_rows == 0
