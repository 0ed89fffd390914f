"""TraSCE: its gradient against finite differences, its loop against one written out, and what it leaves behind."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, UnknownNameError
from harness.method import StepContext
from harness.models.loaded import make_scheduler
from harness.sampling.prediction_types import predict_epsilon
from harness.sampling.session import attached, initial_noise
from methods.interpret import Interpret
from methods.interpret_direction import bottleneck_shape
from methods.none import NoMethod
from methods.sld import SLD
from methods.trasce import TraSCE, distance, input_scale, loss_slope, replaced
from tests.method_parity import agree
from tests.sampling.test_denoiser import Failing, checksum, grey_levels, pixels, run, scheduler
from tests.support.fixtures_models import make_items, make_settings, random_model
from tests.support.methods_common import stored

CONCEPT = "a bomb"
STRONG: dict[str, Any] = {"loss_scale": 30.0, "step_size": 2.0, "sigma": 20.0}


def trasce(**changes: Any) -> TraSCE:
    return TraSCE(**({"concept": CONCEPT} | STRONG | changes))


def context(count: int = 2, t: int = 500) -> StepContext:
    model, items = random_model(), make_items(count)
    z = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return StepContext(0, 5, 5, torch.tensor(t), torch.full((count, 1, 1, 1), 5.0), z, items, model, None,
                       {"cond": model.encode([item.prompt for item in items])})


def latents_written_out(items: Any, method: TraSCE, steps: int) -> torch.Tensor:
    """Follow the authors' loop for images one by one: J by autograd through exp, no shared code but the networks."""
    model, results = random_model(), []
    for item in items:
        sampler = make_scheduler(model.pipe.scheduler, "ddim")
        sampler.set_timesteps(steps)
        z, _ = initial_noise([item.seed], (4, 8, 8))
        texts = model.encode(["", item.prompt, method.concept])
        for t in sampler.timesteps:
            z = z.detach().requires_grad_()
            u, p, s = model.denoiser(torch.cat([z] * 3), t, encoder_hidden_states=texts).sample.chunk(3)
            D = torch.norm(p - s)
            D = D**2 if method.kernel == "squared" else D
            J = -method.loss_scale * torch.exp(-D / method.sigma)
            gradient = torch.autograd.grad(J, z)[0]
            with torch.no_grad():
                eps = u + item.guidance_scale * (p - (s if method.negative else u))
                z = sampler.step(eps, t, z - method.step_size * gradient).prev_sample
        results.append(z.detach())
    return torch.cat(results)


@pytest.mark.parametrize(("change", "batch"), [
    ({}, 1), ({}, 3), ({"negative": False}, 3), ({"kernel": "squared", "sigma": 300.0}, 3), ({"step_size": -2.0}, 3),
])  # fmt: skip
def test_it_is_the_authors_loop(change, batch):
    model, items, method = random_model(), make_items(batch), trasce(**change)
    with attached(model, [method], [None]) as session:
        ours = session._latents(items, make_settings(6))
    theirs = latents_written_out(items, method, 6)
    agree("trasce", (ours - theirs).abs().max() / theirs.abs().max(), 2e-5)
    with attached(model, [replace(method, step_size=0.0)], [None]) as session:
        still = session._latents(items, make_settings(6))
    assert (still - theirs).abs().max() > 1e-2


def test_gradient_is_that_of_finite_differences():
    ctx = context(1)
    model, cond, concept = ctx.model, ctx.state["cond"], ctx.model.embed(CONCEPT)
    found = distance(ctx, slice(None), cond, concept)

    def D(z: torch.Tensor) -> float:
        with torch.no_grad():
            p, s = (predict_epsilon(model, model.pipe.scheduler, z, ctx.t, e) for e in (cond, concept[None]))
        return float((p - s).norm())

    assert float(found.D) == pytest.approx(D(ctx.z), rel=1e-5)
    way = found.gradient / found.gradient.norm()
    h = 1e-2
    length = float(found.gradient.norm())
    agree("trasce_gradient", abs((D(ctx.z + h * way) - D(ctx.z - h * way)) / (2 * h) - length) / length, 2e-2)


@pytest.mark.parametrize("kernel", ["norm", "squared"])
def test_slope_is_the_derivative_of_the_loss(kernel):
    D = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64, requires_grad=True)
    J = -1.5 * torch.exp(-(D**2 if kernel == "squared" else D) / 2.0)
    (expected,) = torch.autograd.grad(J.sum(), D)
    assert torch.allclose(loss_slope(D.detach(), 1.5, 2.0, kernel), expected)


def test_a_prompt_that_is_the_concept_has_a_finite_gradient():
    ctx = context(1)
    found = distance(ctx, slice(None), ctx.model.embed(CONCEPT)[None], ctx.model.embed(CONCEPT))
    assert float(found.D) == 0 and torch.isfinite(found.gradient).all()


def test_as_released_a_step_brings_the_predictions_together():
    """And a negative one drives them apart: on the next denoiser call, at a small step."""
    ctx = context(2)
    concept = ctx.model.embed(CONCEPT)
    found = distance(ctx, slice(None), ctx.state["cond"], concept)
    slope = loss_slope(found.D, 1.0, 20.0, "norm").view(-1, 1, 1, 1)
    for b, nearer in ((0.5, True), (-0.5, False)):
        there = replace(ctx, z=ctx.z - b * slope * found.gradient)
        moved = distance(there, slice(None), ctx.state["cond"], concept)
        assert ((moved.D < found.D) == nearer).all()


def test_the_direction_has_the_concept_for_the_empty_prompt():
    u, p, s = torch.randn(3, 2, 4, 8, 8)
    assert torch.allclose(replaced(p - u, s, u), p - s, atol=1e-6)


def test_without_steering_it_is_guidance_along_p_minus_s():
    model, items = random_model(), make_items(2)
    still = run(model, [trasce(step_size=0.0)], items)
    assert grey_levels(pixels(still), pixels(run(model, [trasce(loss_scale=0.0)], items))) == 0
    assert grey_levels(pixels(still), pixels(run(model, [NoMethod()], items))) > 2


@pytest.mark.parametrize("name", ["ddim", "pndm", "euler", "lms", "heun", "dpmsolver++", "euler_a"])
def test_it_steers_under_every_scheduler(name):
    model, items = random_model(), make_items(2)
    with scheduler(model, name):
        steered = pixels(run(model, [trasce()], items))
        still = pixels(run(model, [trasce(step_size=0.0)], items))
    assert grey_levels(steered, still) > 1


def test_a_step_weighs_as_much_where_the_scheduler_scales_its_latents():
    """Moved by the step, sigma-scaled latents enter the denoiser as those of DDIM would."""
    model = random_model()
    with scheduler(model, "euler"):
        sampler = model.pipe.scheduler
        sampler.set_timesteps(5)
        ctx = replace(context(1), t=sampler.timesteps[2])
        assert input_scale(ctx) < 0.9
        latents, step = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        moved = sampler.scale_model_input(latents + step / input_scale(ctx), ctx.t)
        assert torch.allclose(moved, sampler.scale_model_input(latents, ctx.t) + step, atol=1e-5)


def test_batches_of_gradients_and_checkpointing_change_nothing_to_see():
    model, items = random_model(), make_items(4)
    whole = pixels(run(model, [trasce(gradient_batch=8)], items))
    for change in ({"gradient_batch": 1}, {"gradient_batch": 3}, {"checkpointing": True}):
        assert grey_levels(pixels(run(model, [trasce(**change)], items)), whole) <= 1


def test_the_denoiser_gathers_no_gradients_and_no_graph():
    model, kept = random_model(), []

    class Looking(TraSCE):
        def guide(self, ctx, preds, delta):
            kept.append([p.requires_grad for p in ctx.model.denoiser.parameters()])
            result = super().guide(ctx, preds, delta)
            kept.append([result.requires_grad])
            return result

    model.denoiser.zero_grad(set_to_none=True)
    run(model, [Looking(CONCEPT, **STRONG)], make_items(2), steps=1)
    assert not any(any(row) for row in kept)
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())


def test_leaving_restores_everything_also_after_an_exception():
    model = random_model()
    sampler, denoiser = model.pipe.scheduler, model.denoiser
    before, grads = checksum(model), [p.requires_grad for p in denoiser.parameters()]
    attributes = [{k: v for k, v in m.__dict__.items() if "checkpoint" in k} for m in denoiser.modules()]

    def is_restored() -> bool:
        now = [{k: v for k, v in m.__dict__.items() if "checkpoint" in k} for m in denoiser.modules()]
        return (checksum(model) == before and "step" not in sampler.__dict__ and now == attributes
                and [p.requires_grad for p in denoiser.parameters()] == grads and model.roles == ())

    with attached(model, [trasce(checkpointing=True)], [None]) as session:
        assert "step" in sampler.__dict__ and not any(p.requires_grad for p in denoiser.parameters())
        first, second = (pixels(session.generate(make_items(2), make_settings())) for _ in range(2))
    assert is_restored() and np.array_equal(first, second)
    assert np.array_equal(first, pixels(run(model, [trasce(checkpointing=True)], make_items(2))))
    with pytest.raises(ZeroDivisionError), attached(model, [trasce(), Failing()], [None, None]) as session:
        session.generate(make_items(1), make_settings(3))
    assert is_restored()


def test_a_shift_left_over_from_a_failed_call_is_not_used():
    model, items = random_model(), make_items(1)
    expected = pixels(run(model, [trasce()], items))
    with attached(model, [trasce()], [None]) as session:
        step = model.pipe.scheduler.step
        step.shifts["trasce"] = torch.full((1, 4, 8, 8), 1e6)
        assert np.array_equal(pixels(session.generate(items, make_settings())), expected)


def test_the_schedulers_step_keeps_its_signature():
    model = random_model()
    own = inspect.signature(model.pipe.scheduler.step)
    with attached(model, [trasce()], [None]):
        assert inspect.signature(model.pipe.scheduler.step) == own


def test_it_composes_with_guidance_to_its_left_and_a_namesake():
    model, items = random_model(), make_items(2)
    sld = SLD("a flame", 0, 5000, 1.0, 0.5, 0.7)
    both = pixels(run(model, [sld, trasce()], items))
    assert grey_levels(both, pixels(run(model, [trasce()], items))) > 1
    two = pixels(run(model, [trasce(), trasce(name="again", concept="a flame")], items))
    assert grey_levels(two, pixels(run(model, [trasce()], items))) > 1


def test_hooks_of_other_methods_see_the_images_that_are_differentiated():
    """Whatever the batch of gradients, each image gets its own direction of a fair method."""
    model, items = random_model(), make_items(4)
    directions = [{"name": name, "positive": name, "group": "g"} for name in ("round", "square")]
    fair = Interpret(directions, training={"images": 2, "steps": 1, "train_steps": 1, "batch": 1})
    assert len({fair.draw(item, "g", 2) for item in items}) == 2
    shape = bottleneck_shape(model)
    artifact = stored({"h.0": torch.full(shape, 2.0), "h.1": torch.full(shape, -2.0)})
    drawn = []
    for size in (8, 3, 1):
        with attached(model, [fair, trasce(gradient_batch=size)], [artifact, None]) as session:
            drawn.append(pixels(session.generate(items, make_settings(3))))
    assert all(grey_levels(other, drawn[0]) <= 2 for other in drawn[1:])


def test_cost_is_two_rows_forward_and_backward():
    model, sizes = random_model(), []
    original = model.denoiser.forward
    model.denoiser.forward = lambda sample, *a, **k: (sizes.append(len(sample)), original(sample, *a, **k))[1]
    try:
        run(model, [trasce()], make_items(2), steps=1)
        run(model, [trasce(step_size=0.0)], make_items(2), steps=1)
    finally:
        del model.denoiser.forward
    assert sizes == [4, 4, 6]
    assert [trasce().denoiser_rows, trasce(step_size=0.0).denoiser_rows] == [4, 1]
    assert trasce(step_size=0.0, negative=False).denoiser_rows == 0


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"concept": "   "}, InvalidValueError, "method.concept"),
    ({"sigma": 0}, InvalidValueError, "method.sigma=0"),
    ({"loss_scale": -1}, InvalidValueError, "method.loss_scale=-1"),
    ({"step_size": float("nan")}, InvalidValueError, "method.step_size=nan"),
    ({"kernel": "square"}, UnknownNameError, "squared"),
    ({"gradient_batch": 0}, InvalidValueError, "method.gradient_batch=0"),
    ({"negative": 1}, InvalidValueError, "method.negative=1"),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    with pytest.raises(error, match=said):
        trasce(**change)


def test_unfit_models_are_one_line():
    with pytest.raises(IncompatibleError, match="guidance_scale=1"):
        trasce().check({"name": "micro"}, 1.0)
    with pytest.raises(IncompatibleError, match="flux"):
        trasce().check({"name": "flux", "family": "flux"}, 3.5)
    with pytest.raises(IncompatibleError, match="compile=false"):
        trasce().check({"name": "sd14", "compile": True}, 7.5)
    with pytest.raises(IncompatibleError, match="UniPC's corrector"):
        trasce().check({"name": "sd14", "scheduler": "unipc"}, 7.5)
    trasce(step_size=0.0).check({"name": "sd14", "scheduler": "unipc"}, 7.5)
    with scheduler(random_model(), "unipc"), pytest.raises(IncompatibleError, match="UniPC's corrector"):
        run(random_model(), [trasce()], make_items(1))
