"""The hook into diffusers: what passes untouched, what is edited, and that nothing stays behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError
from harness.method import ExtraRow, Method, Refusal, check_composition
from harness.models.families import DenoiserCall
from harness.models.families.base import unscaled
from harness.models.loaded import LoadedModel, make_scheduler
from harness.records import TRUNCATED, ImageItem, Status
from harness.sampling.prediction_types import alpha_bar, from_epsilon, to_epsilon
from harness.sampling.session import Generated, attached, initial_noise
from methods.advunlearn import AdvUnlearn
from methods.esd import ESD
from methods.mace import MACE
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.saeuron import SAeUron
from methods.safedir import SafeDir
from methods.salun import SalUn
from methods.sld import SLD
from methods.spm import SPM
from methods.uce import UCE
from tests.support.fixtures_models import make_items, make_settings, micro_model, random_model

SCHEDULERS = ("ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpmsolver++")


@dataclass(frozen=True)
class Spy(Method):
    """Notes what the hook tells it; edits nothing unless told to."""

    name: str = "spy"
    push: float = 0.0
    log: Any = None
    kind: ClassVar[str] = "spy"

    def rows(self, ctx):
        return [ExtraRow("spy", ctx.model.embed("a bomb"))] if self.push else ()

    def guide(self, ctx, preds, delta):
        if self.log is not None:
            self.log.append((ctx.call, ctx.n_calls, dict(ctx.state), ctx.model.roles))
        ctx.state["calls"] = ctx.state.get("calls", 0) + 1
        return delta - self.push * (preds["spy"] - preds["uncond"]) if self.push else delta


@dataclass(frozen=True)
class Refuser(Method):
    """Refuses prompts with a word in them."""

    name: str = "refuser"
    word: str = "campfire"
    kind: ClassVar[str] = "refuser"

    def prompts(self, items: Sequence[ImageItem]) -> Sequence[ImageItem | Refusal]:
        return [Refusal("listed word") if self.word in item.prompt else item for item in items]


@dataclass(frozen=True)
class Editor(Method):
    """Changes a weight while attached."""

    name: str = "editor"
    kind: ClassVar[str] = "editor"

    @contextmanager
    def attach(self, model, artifact):
        weight = model.denoiser.conv_in.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.5)
        try:
            yield
        finally:
            with torch.no_grad():
                weight.copy_(kept)


@dataclass(frozen=True)
class Failing(Method):
    """Breaks down in the second denoiser call."""

    name: str = "failing"
    kind: ClassVar[str] = "failing"

    def guide(self, ctx, preds, delta):
        return delta if ctx.call < 1 else 1 // 0


def checksum(model: LoadedModel) -> dict[str, bytes]:
    parts = {"unet": model.pipe.unet, "vae": model.pipe.vae, "text": model.pipe.text_encoder}
    return {f"{part}.{name}": value.numpy().tobytes()
            for part, module in parts.items() for name, value in module.state_dict().items()}


def hooks(model: LoadedModel) -> list[Any]:
    return [hook for module in model.denoiser.modules() for hook in module._forward_hooks.values()]


def run(model: LoadedModel, methods: Sequence[Method], items: Sequence[ImageItem], **settings: Any) -> list[Generated]:
    with attached(model, methods, [None] * len(methods)) as session:
        return session.generate(items, make_settings(**settings))


def pixels(results: Sequence[Generated]) -> np.ndarray:
    return np.stack([result.image for result in results])


def stock(model: LoadedModel, items: Sequence[ImageItem], steps: int, size: int, **texts: Any) -> np.ndarray:
    """Call the unwrapped pipeline with the same seeds."""
    texts = texts or {"prompt": [item.prompt for item in items]}
    generators = [torch.Generator().manual_seed(item.seed) for item in items]
    images = model.pipe(**texts, num_inference_steps=steps, height=size, width=size, generator=generators,
                        guidance_scale=items[0].guidance_scale, output_type="pil").images
    return np.stack([np.asarray(image) for image in images])


@contextmanager
def scheduler(model: LoadedModel, name: str):
    before = model.pipe.scheduler
    model.pipe.scheduler = make_scheduler(before, name)
    try:
        yield
    finally:
        model.pipe.scheduler = before


def grey_levels(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_none_is_the_stock_pipeline(name):
    model, items = random_model(), make_items(3)
    with scheduler(model, name):
        ours = pixels(run(model, [NoMethod()], items))
        assert grey_levels(ours, stock(model, items, 5, 32)) <= 1


@pytest.mark.parametrize("name", ["ddim", "pndm"])
@pytest.mark.parametrize("batch", [1, 4])
def test_none_is_the_stock_pipeline_on_the_embedded_model(name, batch):
    model, items = micro_model(), make_items(batch)
    with scheduler(model, name):
        ours = pixels(run(model, [NoMethod()], items, steps=10, size=64))
        assert grey_levels(ours, stock(model, items, 10, 64)) <= 1


@pytest.mark.parametrize("method", [NoMethod(), Spy(), NegativePrompt(""), SLD("a bomb", 0, 0, 0, 0, 0)])
def test_strength_zero_is_stock_to_the_bit(method):
    model, items = random_model(), make_items(3)
    embeds = {"prompt_embeds": model.encode([item.prompt for item in items]),
              "negative_prompt_embeds": model.encode(["", "", ""])}
    assert np.array_equal(pixels(run(model, [method], items)), stock(model, items, 5, 32, **embeds))


def test_guidance_one_runs_one_row_and_is_stock():
    model, items = random_model(), make_items(2, guidance_scale=1.0)
    log: list[Any] = []
    ours = pixels(run(model, [Spy(log=log)], items))
    assert not log
    assert grey_levels(ours, stock(model, items, 5, 32)) <= 1


def test_each_image_follows_its_own_guidance_scale():
    model = random_model()
    scales = [0.5, 2.0, 7.5]
    items = [replace(item, guidance_scale=w) for item, w in zip(make_items(3), scales, strict=True)]
    mixed = pixels(run(model, [NoMethod()], items))
    for index, w in enumerate(scales):
        alone = pixels(run(model, [NoMethod()], [replace(item, guidance_scale=w) for item in items]))
        assert grey_levels(mixed[index], alone[index]) <= (1 if w <= 1 else 0)


def test_guidance_scales_are_kept_apart_under_a_guidance_method():
    model, sld = random_model(), SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7)
    items = [replace(item, guidance_scale=w) for item, w in zip(make_items(2), [3.0, 9.0], strict=True)]
    mixed = pixels(run(model, [sld], items))
    for index, item in enumerate(items):
        alone = pixels(run(model, [sld], [replace(other, guidance_scale=item.guidance_scale) for other in items]))
        assert np.array_equal(mixed[index], alone[index])


def test_guidance_method_refuses_an_image_at_guidance_one():
    sld = SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7)
    items = [replace(item, guidance_scale=w) for item, w in zip(make_items(2), [1.0, 9.0], strict=True)]
    with pytest.raises(IncompatibleError, match="guidance_scale=1"):
        run(random_model(), [sld], items)


@pytest.mark.parametrize(("name", "steps", "calls"), [("pndm", 50, 51), ("ddim", 50, 50), ("heun", 5, 9)])
def test_context_counts_denoiser_calls(name, steps, calls):
    model, log = random_model(), list[Any]()
    with scheduler(model, name):
        run(model, [Spy(log=log)], make_items(1), steps=steps)
    assert [entry[0] for entry in log] == list(range(calls))
    assert {entry[1] for entry in log} == {calls}


def test_roles_name_every_row_of_the_wide_batch():
    model, log = random_model(), list[Any]()
    run(model, [Spy(log=log, push=1.0)], make_items(2), steps=1)
    assert log[0][3] == ("uncond", "uncond", "cond", "cond", "spy", "spy")
    assert model.roles == ()


def test_state_is_reset_for_every_pipeline_call():
    model, log = random_model(), list[Any]()
    sld = SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7)
    items = make_items(2)
    with attached(model, [sld, Spy(log=log)], [None, None]) as session:
        first = pixels(session.generate(items, make_settings()))
        second = pixels(session.generate(items, make_settings()))
    fresh = pixels(run(model, [sld], items))
    assert np.array_equal(first, second)
    assert np.array_equal(first, fresh)
    assert [entry[2].get("calls", 0) for entry in log] == [0, 1, 2, 3, 4] * 2


def test_leaving_restores_every_byte_and_hook():
    model = random_model()
    before, forward = checksum(model), model.denoiser.forward
    with attached(model, [Editor(), Spy(push=1.0)], [None, None]) as session:
        assert checksum(model) != before
        session.generate(make_items(1), make_settings(1))
    assert checksum(model) == before
    assert model.denoiser.forward == forward and "forward" not in model.denoiser.__dict__
    assert hooks(model) == []


def test_leaving_restores_after_an_exception():
    model = random_model()
    before = checksum(model)
    with pytest.raises(ZeroDivisionError), attached(model, [Editor(), Failing()], [None] * 2) as session:
        session.generate(make_items(1), make_settings(3))
    assert checksum(model) == before
    assert "forward" not in model.denoiser.__dict__
    with attached(model, [Editor()], [None]):
        assert checksum(model) != before


def test_prompts_that_are_cut_are_flagged_and_others_are_not():
    model, items = random_model(), make_items(3)
    long = replace(items[1], prompt="a ball in a field " * 40)
    flags = [made.flags for made in run(model, [NoMethod()], [items[0], long, items[2]])]
    assert flags == [(), (TRUNCATED,), ()]


def test_refused_prompts_never_reach_the_denoiser():
    model, items = random_model(), make_items(3)
    seen: list[str] = []
    embed = model.pipe.encode_prompt
    model.pipe.encode_prompt = lambda text, *a, **k: (seen.append(text), embed(text, *a, **k))[1]
    try:
        results = run(model, [Refuser()], items)
    finally:
        del model.pipe.encode_prompt
    assert [result.status for result in results] == [Status.OK, Status.REFUSED, Status.OK]
    assert results[1].image is None and results[1].flags == ("listed word",)
    assert not any("campfire" in text for text in seen if isinstance(text, str))


def test_refusals_do_not_change_the_other_images():
    model, items = random_model(), make_items(3)
    with_refusal, without = run(model, [Refuser()], items), run(model, [NoMethod()], items)
    assert np.array_equal(with_refusal[0].image, without[0].image)
    assert np.array_equal(with_refusal[2].image, without[2].image)
    assert all(r.status is Status.REFUSED for r in run(model, [Refuser(word="a")], items[:2]))


@pytest.mark.parametrize("method", [NoMethod(), SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7), NegativePrompt("a bomb")])
def test_an_image_does_not_depend_on_its_company(method):
    model, items = random_model(), make_items(4)
    together = pixels(run(model, [method], items))
    for index, item in enumerate(items):
        company = [item, *make_items(3, first_seed=90)]
        assert np.array_equal(pixels(run(model, [method], company))[0], together[index])


def test_noise_is_each_seeds_own_for_all_64_bits():
    seeds = [0, 2**32 - 1, 2**63, 2**64 - 1]
    noise, generators = initial_noise(seeds, (4, 8, 8))
    for index, seed in enumerate(seeds):
        alone, _ = initial_noise([seed], (4, 8, 8))
        assert torch.equal(noise[index], alone[0])
    assert len(generators) == 4 and noise.dtype == torch.float32


def test_ancestral_noise_is_each_images_own():
    model, items = random_model(), make_items(3)
    with scheduler(model, "euler_a"):
        together = pixels(run(model, [NoMethod()], items))
        swapped = pixels(run(model, [NoMethod()], items[::-1]))[::-1]
    assert grey_levels(together, swapped) <= 1


def test_v_prediction_conversions_are_inverse():
    z, v = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    eps = to_epsilon(v, z, "v_prediction", 0.3)
    assert torch.allclose(eps, 0.3**0.5 * v + 0.7**0.5 * z)
    assert torch.allclose(from_epsilon(eps, z, "v_prediction", 0.3), v, atol=1e-6)


def test_alpha_bar_reads_the_schedule():
    ddim = random_model().pipe.scheduler
    assert alpha_bar(ddim, 500) == pytest.approx(float(ddim.alphas_cumprod[500]), rel=1e-6)
    assert float(ddim.alphas_cumprod[501]) < alpha_bar(ddim, 500.5) < float(ddim.alphas_cumprod[500])


@contextmanager
def v_twin(model: LoadedModel) -> Iterator[None]:
    """Let the model predict v = (eps - sqrt(1 - abar) z) / sqrt(abar) of the same noise."""
    base, original = model.pipe.scheduler, model.denoiser.forward

    def twin(sample: torch.Tensor, t: Any, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        eps = original(sample, t, *args, **kwargs)[0]
        return (from_epsilon(eps, sample, "v_prediction", alpha_bar(base, float(t))),)

    model.pipe.scheduler = make_scheduler(base, "ddim")
    model.pipe.scheduler.register_to_config(prediction_type="v_prediction")
    model.prediction_type, model.denoiser.forward = "v_prediction", twin
    try:
        yield
    finally:
        model.pipe.scheduler, model.prediction_type = base, "epsilon"
        del model.denoiser.forward


def test_guidance_in_v_space_equals_guidance_in_epsilon_space():
    """A model and its v-twin draw the same under SLD."""
    model, items, sld = random_model(), make_items(2), SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7)
    expected = pixels(run(model, [sld], items))
    with v_twin(model):
        assert grey_levels(pixels(run(model, [sld], items)), expected) <= 1


def test_black_and_broken_images_are_told_apart():
    model = random_model()
    weight = model.pipe.vae.post_quant_conv.bias
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        (result,) = run(model, [NoMethod()], make_items(1))
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert result.status is Status.ERROR and result.image is None and result.flags == ("not_finite",)


@pytest.mark.parametrize(("methods", "reason"), [
    ([NegativePrompt("a"), NegativePrompt("b", name="other")], "unconditional"),
    ([NoMethod(), Spy()], "base model"),
    ([Spy(), Spy()], "twice"),
    ([], "no method"),
    ([SPM("x"), ESD(concept="a bomb")], "esd trains.* spm acts only during sampling.*to the left of spm"),
    ([SAeUron("x", concepts="a"), SafeDir("a bomb")], "safedir trains"),
    ([ESD(concept="a bomb"), MACE("x")], "would undo the edits of esd. Put mace to the left of esd"),
    ([UCE("a bomb"), SalUn("x", strength=0.5)], "whole U-Net"),
    ([MACE("x"), SalUn("x")], "undo the edits of mace"),
])  # fmt: skip
def test_conflicts_are_refused_with_the_reason(methods, reason):
    with pytest.raises(IncompatibleError, match=reason):
        check_composition(methods)


@pytest.mark.parametrize("methods", [
    [MACE("x"), ESD(concept="a bomb")], [ESD(concept="a bomb"), AdvUnlearn("x")], [AdvUnlearn("x"), MACE("x")],
    [SPM("x"), MACE("x")], [SPM("x"), SafeDir("a bomb", on_edited="transfer")], [SPM("x"), SLD("a", 0, 9, 1, 0, 0)],
    [ESD(concept="a bomb"), SPM("x")],
])  # fmt: skip
def test_edits_that_leave_each_other_whole_are_not_refused(methods):
    check_composition(methods)


def test_extra_rows_of_one_text_run_once():
    calls: list[int] = []
    model = random_model()
    original = model.denoiser.forward
    model.denoiser.forward = lambda sample, *a, **k: (calls.append(len(sample)), original(sample, *a, **k))[1]
    try:
        run(model, [Spy(push=0.5), Spy(name="again", push=0.5)], make_items(2), steps=1)
    finally:
        del model.denoiser.forward
    assert calls == [6]


def test_added_conditions_are_widened_with_the_rows():
    rows = [ExtraRow("a", torch.zeros(3, 4), pooled=torch.full((6,), 9.0)), ExtraRow("b", torch.zeros(2, 3, 4))]
    pooled = torch.arange(4.0)[:, None].expand(4, 6)
    call = DenoiserCall(torch.zeros(4, 4, 8, 8), torch.full((4,), 7.0), torch.ones(4, 3, 4), pooled,
                        {"time_ids": torch.ones(4, 6)}, {"return_dict": False})
    wide = call.widened(rows, 2, 2)
    assert len(wide.sample) == len(wide.timestep) == len(wide.embeds) == 8
    assert wide.pooled[:, 0].tolist() == [0, 1, 2, 3, 9, 9, 2, 3]
    assert wide.per_row["time_ids"].shape == (8, 6) and wide.shared == call.shared
    assert call.widened(rows, 2, 0).pooled[:, 0].tolist() == [0, 1, 2, 3, 9, 9, 0, 1]


def test_latents_are_unscaled_by_factor_shift_and_the_channels_mean_and_deviation():
    z = torch.ones(1, 2, 1, 1)
    assert unscaled(z, SimpleNamespace(scaling_factor=0.5)).flatten().tolist() == [2, 2]
    assert unscaled(z, SimpleNamespace(scaling_factor=0.5, shift_factor=1.0)).flatten().tolist() == [3, 3]
    moved = SimpleNamespace(scaling_factor=0.5, latents_mean=[1.0, 2.0], latents_std=[3.0, 4.0], shift_factor=None)
    assert unscaled(z, moved).flatten().tolist() == [7, 10]
