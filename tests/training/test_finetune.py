"""Fine-tuning: which parameters, a working copy that leaves the model alone, exact undo, latents on the way."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, fields
from functools import lru_cache
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from harness.errors import HarnessError, IncompatibleError, UnknownNameError
from harness.method import Method
from harness.training.fine_tuning import (
    FineTuned,
    PartialDenoising,
    WorkingCopy,
    applied_deltas,
    draw_stop,
    frozen_denoise,
    optimise,
    parameter_names,
    timestep_bin,
)
from harness.training.frozen import frozen_denoiser
from methods.concept_ablation import ConceptAblation
from methods.esd import ESD
from methods.hfi import HFI
from methods.hfi_proxy import HFIProxy
from methods.parameter_sets import PARAMETER_SETS
from methods.sdd import SDD
from tests.sampling.test_denoiser import checksum
from tests.support.fixtures_models import random_model

# Counted on SD 1's published configuration (methods.md, 0.7; "attn" and "notime" follow from the others).
SD1 = {"full": 859_520_964, "xattn": 43_962_560, "x_strict": 19_169_280, "selfattn": 49_574_080,
       "esd_u": 815_358_084, "noxattn": 813_496_320, "attn": 93_536_640, "notime": 857_458_880,
       "esd_all": 859_320_644}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tuned(FineTuned):
    """Pulls the parameters to zero."""

    name: str = "tuned"
    kind: ClassVar[str] = "tuned"


@lru_cache(maxsize=1)
def full_size():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)  # fmt: skip


@pytest.mark.parametrize("which", SD1)
def test_parameter_sets_have_the_published_sizes_on_sd1(which):
    own = dict(full_size().named_parameters())
    assert sum(own[name].numel() for name in parameter_names(full_size(), which, PARAMETER_SETS)) == SD1[which]


def test_an_unknown_parameter_set_gets_near_names():
    with pytest.raises(UnknownNameError, match="xattn"):
        parameter_names(random_model().denoiser, "xatn")
    with pytest.raises(IncompatibleError, match="no parameters in the set x_strict"):
        parameter_names(torch.nn.Linear(2, 2), "x_strict")


def some_deltas(model, which="xattn"):
    generator = torch.Generator().manual_seed(0)
    own = dict(model.denoiser.named_parameters())
    return {f"{name}.delta": torch.randn(own[name].shape, generator=generator)
            for name in parameter_names(model.denoiser, which)}


@pytest.mark.parametrize("which", ["xattn", "full"])
def test_deltas_are_undone_to_the_bit_also_after_an_exception(which):
    model = random_model()
    before, deltas = checksum(model), some_deltas(random_model(), which)
    with pytest.raises(ZeroDivisionError), applied_deltas(model.denoiser, deltas):
        assert checksum(model) != before
        raise ZeroDivisionError
    assert checksum(model) == before


def test_deltas_are_added_in_float32_and_then_cast():
    layer = torch.nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    kept, delta = layer.weight.detach().clone(), torch.full((4, 4), 0.01)
    with applied_deltas(layer, {"weight.delta": delta}, strength=0.5):
        assert torch.equal(layer.weight, (kept.float() + 0.005).to(torch.bfloat16))
    assert torch.equal(layer.weight, kept)


def test_deltas_of_another_denoiser_are_refused():
    for tensors in ({"nowhere.delta": torch.zeros(1)}, {"conv_in.bias.delta": torch.zeros(3)}):
        with pytest.raises(IncompatibleError, match="does not have in that shape"), \
                applied_deltas(random_model().denoiser, tensors):
            pass


def test_a_working_copy_is_the_model_until_it_is_trained():
    model = random_model()
    z, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    c = model.encode(["a doctor", "a bomb"])
    before = checksum(model)
    with frozen_denoiser(model):
        own = WorkingCopy(model, parameter_names(model.denoiser, "xattn"))
        expected = frozen_denoise(model)(z, t, c)
        assert torch.equal(own.denoise(z, t, c), expected)
        own.denoise(z, t, c).sum().backward()
        assert all(value.grad is not None for value in own.parameters.values())
        with torch.no_grad():
            for value in own.parameters.values():
                value.mul_(1.5)
        changed = own.denoise(z, t, c)
        assert not torch.equal(changed, expected) and torch.equal(frozen_denoise(model)(z, t, c), expected)
    with applied_deltas(model.denoiser, own.deltas()):
        assert torch.allclose(frozen_denoise(model)(z, t, c), changed, atol=1e-5)
    assert checksum(model) == before
    assert all(value.grad is None and value.requires_grad for value in model.denoiser.parameters())


def test_the_moving_average_follows():
    model = random_model()
    names = parameter_names(model.denoiser, "x_strict")
    teacher, student = WorkingCopy(model, names), WorkingCopy(model, names)
    with torch.no_grad():
        for value in student.parameters.values():
            value.add_(1)
    for _ in range(3):
        teacher.follow(student, 0.9)
    assert all(torch.allclose(delta, torch.full_like(delta, 1 - 0.9**3), atol=1e-5)
               for delta in teacher.deltas().values())


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_training_that_breaks_down_says_at_which_step(poison):
    own = WorkingCopy(random_model(), parameter_names(random_model().denoiser, "x_strict"))
    value = next(iter(own.parameters.values()))
    with pytest.raises(HarnessError, match=r"tuned diverged at step 3: .* method.learning_rate"):
        optimise(own, Tuned(iterations=5), lambda i: value.square().sum() * (poison if i == 2 else 1), lambda *_: None)


def test_progress_counts_the_steps_and_the_loss_falls():
    own = WorkingCopy(random_model(), parameter_names(random_model().denoiser, "x_strict"))
    seen = []
    value = next(iter(own.parameters.values()))
    losses = optimise(own, Tuned(iterations=4, learning_rate=1e-2), lambda _: value.square().sum(),
                      lambda *told: seen.append(told))
    assert seen == [("tuned", n, 4) for n in (1, 2, 3, 4)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(("k", "first", "last"), [(0, 980, 999), (1, 960, 979), (49, 0, 19)])
def test_timestep_bins_are_those_of_the_released_code(k, first, last):
    assert timestep_bin(k, 50, 1000) == range(first, last + 1)


def test_stops_are_uniform_or_in_the_middle():
    generator = torch.Generator().manual_seed(0)
    flat = [draw_stop(generator, 50, 1000) for _ in range(4000)]
    bent = [draw_stop(generator, 50, 1000, "beta") for _ in range(4000)]
    assert all(stop.t in timestep_bin(stop.calls, 50, 1000) for stop in flat + bent)
    counts = Counter(stop.calls for stop in flat)
    assert set(counts) == set(range(50)) and max(counts.values()) < 2 * min(counts.values())
    t = torch.tensor([stop.t / 1000 for stop in bent])
    assert t.mean() == pytest.approx(0.5, abs=0.01) and t.var() == pytest.approx(1 / 28, rel=0.1)  # Beta(3, 3)


def guided(model, calls, w=3.0, scheduler="ddim"):
    c, u = model.encode(["a bomb"]), model.encode([""])
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return noise, PartialDenoising(model.scheduler(scheduler), 5, w).run(frozen_denoise(model), noise, c, u, calls)


def test_no_step_leaves_the_noise():
    noise, z = guided(random_model(), 0)
    assert torch.equal(z, noise)


@pytest.mark.parametrize("scheduler", ["ddim", "pndm"])
def test_all_steps_are_the_stock_pipelines_latent(scheduler):
    model = random_model()
    calls = len(_timesteps(model, scheduler))
    noise, z = guided(model, calls, scheduler=scheduler)
    pipe = copy.copy(model.pipe)
    pipe.scheduler = model.scheduler(scheduler)
    theirs = pipe("a bomb", latents=noise, num_inference_steps=5, guidance_scale=3.0, height=32, width=32,
                  output_type="latent").images
    assert torch.allclose(z, theirs, atol=1e-4)
    half = guided(model, 2, scheduler=scheduler)[1]
    assert not torch.allclose(half, z, atol=1e-2)


def _timesteps(model, scheduler):
    own = model.scheduler(scheduler)
    own.set_timesteps(5)
    return own.timesteps


@pytest.mark.parametrize("kind", [ESD, SDD, ConceptAblation, HFI, HFIProxy])
def test_no_setting_hides_a_hook(kind):
    hooks = {name for name, value in vars(Method).items() if callable(value) or isinstance(value, property)}
    assert not hooks & {field.name for field in fields(kind)}


def test_a_working_copy_holds_the_models_own_weights_once_and_its_change_is_exact():
    denoiser = torch.nn.Linear(3, 3).to(torch.bfloat16)
    model = SimpleNamespace(denoiser=denoiser)
    own = WorkingCopy(model, ["weight"])
    assert own.start["weight"].data_ptr() == denoiser.weight.data_ptr()
    assert own.parameters["weight"].dtype is torch.float32
    with torch.no_grad():
        own.parameters["weight"] += 2**-12  # too small for bfloat16 beside most weights
    change = own.deltas()["weight.delta"]
    assert change.dtype is torch.float32 and torch.allclose(change, torch.full((3, 3), 2**-12), atol=1e-7)
