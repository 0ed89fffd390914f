"""Stable Diffusion 3: flow matching, CLIP and T5 texts in one sequence. Stock parity, methods on it, what refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from harness.__main__ import main
from harness.cells.fetching import prefetch
from harness.errors import HarnessError, IncompatibleError
from harness.lib.hub_cache import cached_snapshot
from harness.lib.targets import build
from harness.method import ExtraRow, Method
from harness.models.choice import settled
from harness.models.conditions import condition, unconditional
from harness.models.loaded import LoadedModel, make_scheduler
from harness.models.loading import load_model
from harness.models.weights import missing, weights_fingerprint
from harness.records import ImageItem
from harness.sampling.prediction_types import (
    epsilon_slope,
    flow_sigma,
    from_epsilon,
    noise_level,
    predict_epsilon,
    to_epsilon,
)
from harness.sampling.session import attached
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.sld import SLD
from tests.models.test_family_sdxl import told_to_the_denoiser
from tests.sampling.test_denoiser import Failing, grey_levels, pixels, run
from tests.support.fake_hub import FakeRepository
from tests.support.fixtures_flow import T5_TOKENS, random_sd3_config, random_sd3_model
from tests.support.fixtures_models import SIZE, make_items, make_settings
from tests.support.hub_jobs import job
from tests.support.methods_registry import configs

STEPS = 3
# Presets that draw on it, with settings that act in so few steps, and what switches each off.
DRAWN: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "negative_prompt": ({}, {"concept": ""}),
    "sld_medium": ({"warmup": 0}, {"scale": 0}),
    "sega": ({"warmup": 0}, {"scale": 0}),
    "trasce": ({"loss_scale": 30.0, "sigma": 20.0}, {"loss_scale": 0, "negative": False}),
}
REFUSED = ("esd_x", "sdd", "concept_ablation", "safedir", "interpret_safe", "uce", "rece", "uce_debias", "safree",
           "hfi", "mace", "spm", "saeuron", "advunlearn", "concept_steerers", "prompt_filter_embedding")  # fmt: skip


def made(preset: str, **changes: Any) -> Method:
    method = build({**configs()[preset], **DRAWN.get(preset, ({}, {}))[0], **changes})
    assert isinstance(method, Method)
    return method


def drawn(method: Method, items: list[ImageItem] | None = None, model: LoadedModel | None = None) -> np.ndarray:
    return pixels(run(model or random_sd3_model(), [method], items or make_items(2), steps=STEPS))


def stock(items: list[ImageItem], **texts: Any) -> np.ndarray:
    texts = texts or {"prompt": [item.prompt for item in items], "max_sequence_length": T5_TOKENS}
    images = random_sd3_model().pipe(
        **texts, num_inference_steps=STEPS, height=SIZE, width=SIZE, guidance_scale=items[0].guidance_scale,
        generator=[torch.Generator().manual_seed(item.seed) for item in items]).images  # fmt: skip
    return np.stack([np.asarray(image) for image in images])


def checksum(model: LoadedModel) -> dict[str, bytes]:
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    return {f"{part}.{name}": value.numpy().tobytes() for part in parts
            for name, value in getattr(model.pipe, part).state_dict().items()}


@dataclass(frozen=True)
class Watcher(Method):
    """Asks for a row and edits nothing."""

    name: str = "watcher"
    log: Any = None
    kind: ClassVar[str] = "watcher"

    def rows(self, ctx):
        return [ExtraRow("extra", ctx.model.embed("a bomb"), ctx.model.pooled("a bomb"))]

    def guide(self, ctx, preds, delta):
        self.log.append((float(ctx.t), preds["extra"], ctx.model.roles))
        return delta


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_none_is_the_stock_pipeline(guidance):
    items = make_items(2, guidance)
    assert grey_levels(drawn(NoMethod(), items), stock(items)) <= 1


@pytest.mark.parametrize("method", [NoMethod(), NegativePrompt(""), SLD("a bomb", 0, 0, 0, 0, 0)])
def test_strength_zero_is_stock_to_the_bit(method):
    model, items = random_sd3_model(), make_items(2)
    told = {"prompt_embeds": model.encode([item.prompt for item in items]),
            "pooled_prompt_embeds": torch.stack([model.pooled(item.prompt) for item in items]),
            "negative_prompt_embeds": model.encode(["", ""]),
            "negative_pooled_prompt_embeds": torch.stack([model.pooled("")] * 2)}
    assert np.array_equal(drawn(method, items), stock(items, **told))


def test_negative_prompt_is_the_stock_pipelines():
    items = make_items(2)
    ours = drawn(NegativePrompt("a bomb"), items)
    theirs = stock(items, prompt=[item.prompt for item in items], negative_prompt=["a bomb"] * 2,
                   max_sequence_length=T5_TOKENS)
    assert grey_levels(ours, theirs) <= 1 < grey_levels(ours, drawn(NoMethod()))


def test_each_image_follows_its_own_guidance_scale():
    scales = [1.0, 2.0, 7.5]
    items = [replace(item, guidance_scale=w) for item, w in zip(make_items(3), scales, strict=True)]
    mixed = drawn(NoMethod(), items)
    for index, w in enumerate(scales):
        alone = drawn(NoMethod(), [replace(item, guidance_scale=w) for item in items])
        assert grey_levels(mixed[index], alone[index]) <= 1


def test_guidance_scales_are_kept_apart_under_a_guidance_method():
    items = [replace(item, guidance_scale=w) for item, w in zip(make_items(2), [3.0, 9.0], strict=True)]
    mixed = drawn(made("sld_medium"), items)
    for index, item in enumerate(items):
        alone = drawn(made("sld_medium"), [replace(other, guidance_scale=item.guidance_scale) for other in items])
        assert np.array_equal(mixed[index], alone[index])


def test_a_row_more_is_told_its_own_texts_and_the_images_timestep_and_changes_nothing():
    model, log = random_sd3_model(), list[Any]()
    with told_to_the_denoiser(model) as calls:
        watched = drawn(Watcher(log=log))
    assert grey_levels(watched, drawn(NoMethod())) <= 1
    call = calls[0]
    assert {len(call[name]) for name in ("hidden_states", "timestep", "encoder_hidden_states",
                                         "pooled_projections")} == {6}
    assert all(torch.equal(row, model.pooled("a bomb")) for row in call["pooled_projections"][4:])
    assert all(torch.equal(row, model.embed("a bomb")) for row in call["encoder_hidden_states"][4:])
    assert log[0][2] == ("uncond", "uncond", "cond", "cond", "extra", "extra")


@pytest.mark.parametrize("sigma", [0.001, 0.3, 0.75, 0.999])
def test_flow_conversions_are_inverse_and_recover_noise_and_differences(sigma):
    x0, n = torch.randn(2, 2, 16, 8, 8, dtype=torch.float64)
    z, v = (1 - sigma) * x0 + sigma * n, n - x0
    eps = to_epsilon(v, z, "flow", sigma)
    assert torch.allclose(eps, n, atol=1e-12)
    assert torch.allclose(from_epsilon(eps, z, "flow", sigma), v, atol=1e-9)
    other = to_epsilon(v + 1, z, "flow", sigma)
    assert torch.allclose(other - eps, torch.full_like(eps, epsilon_slope("flow", sigma)), atol=1e-12)


def test_sigma_is_the_running_steps_and_never_one():
    scheduler = make_scheduler(random_sd3_model().pipe.scheduler, None)
    scheduler.set_timesteps(5)
    assert float(scheduler.sigmas[0]) == 1.0 and flow_sigma(scheduler, float(scheduler.timesteps[0])) == 0.999
    for t, sigma in zip(scheduler.timesteps[1:], scheduler.sigmas[1:], strict=False):
        assert noise_level("flow", scheduler, float(t)) == float(sigma)


def test_sld_on_it_is_the_formula_on_the_three_predictions():
    """Two steps; the second starts from sigma < 1, where noise and velocity differ."""
    model, item = random_sd3_model(), make_items(1)[0]
    own = make_scheduler(model.pipe.scheduler, None)
    own.set_timesteps(2)
    z = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(item.seed))
    for t in own.timesteps:
        with torch.no_grad():
            p, s = (predict_epsilon(model, own, z, t, condition(model, [text])) for text in (item.prompt, "a bomb"))
            u = predict_epsilon(model, own, z, t, unconditional(model, 1))
        mu = ((p - s).abs() * 50).clamp(max=1).masked_fill(p - s >= 1.0, 0)
        edited = u + item.guidance_scale * (p - u - mu * (s - u))
        z = own.step(from_epsilon(edited, z, "flow", flow_sigma(own, float(t))), t, z).prev_sample
    with attached(model, [SLD("a bomb", 0, 50, 1.0, 0.0, 0.0)], [None]) as session:
        ours = session._latents([item], make_settings(2))
    assert torch.allclose(ours, z, atol=5e-3) and z.isfinite().all()


@pytest.mark.parametrize("preset", DRAWN)
def test_a_method_draws_something_else_and_gives_every_byte_back_and_off_it_is_none(preset):
    model = random_sd3_model()
    before, method = checksum(model), made(preset)
    method.check(settled(random_sd3_config()), 5.0)
    none, ours = drawn(NoMethod()), drawn(method)
    assert not np.array_equal(ours, none) and ours.std() > 0
    assert np.array_equal(drawn(made(preset, **DRAWN[preset][1])), none)
    with pytest.raises(ZeroDivisionError), attached(model, [method, Failing()], [None, None]) as session:
        session.generate(make_items(2), make_settings(STEPS))
    assert checksum(model) == before and "forward" not in model.denoiser.__dict__
    assert "step" not in model.pipe.scheduler.__dict__


def test_trasces_gradient_is_taken_through_the_transformer_and_steers():
    forth, back = (drawn(made("trasce", step_size=step, negative=False)) for step in (1e4, -1e4))
    still = drawn(NoMethod())
    assert min(grey_levels(forth, still), grey_levels(back, still), grey_levels(forth, back)) > 1
    assert all(parameter.requires_grad for parameter in random_sd3_model().denoiser.parameters())


@pytest.mark.parametrize("preset", REFUSED)
def test_a_method_that_cannot_work_on_it_says_why_in_one_line(preset):
    changes = {"concepts": ["a"], "threshold": 0.5} if preset == "prompt_filter_embedding" else {}
    with pytest.raises(IncompatibleError, match="is sd3: its transformer") as caught:
        made(preset, **changes).check(random_sd3_config(), 7.0)
    assert "\n" not in str(caught.value)


def test_plan_says_what_is_refused_before_anything_loads(tmp_path, capsys):
    source = random_sd3_config()["source"]
    capsys.readouterr()  # saving it writes progress bars
    words = ["mode=plan", "bench=micro_i2p", f"results={tmp_path / 'out'}", "model=local", f"model.path={source}",
             "model.dtype=float32"]
    assert main([*words, "method=safedir"]) == 2
    error = capsys.readouterr().err
    assert "is sd3: its transformer" in error and error.count("\n") == 1
    assert main([*words, "method=sld_medium"]) == 0


def test_a_folder_tells_its_family_and_size_and_another_scheduler_is_refused():
    found = settled(random_sd3_config() | {"family": None, "size": None})
    assert (found["family"], found["size"]) == ("sd3", SIZE)
    for key, value in (("scheduler", "ddim"), ("prediction_type", "epsilon")):
        with pytest.raises(HarnessError, match=rf"Set model\.{key}=null"):
            load_model(random_sd3_config() | {key: value})
    assert len(weights_fingerprint(random_sd3_config())) == 64


def test_prefetch_fetches_three_encoders_and_the_transformer_and_no_loose_file(hub):
    root = Path(random_sd3_config()["source"])
    files = {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}
    loose = ("sd3.5_medium.safetensors", "text_encoders/t5xxl_fp16.safetensors",
             "text_encoder_3/model.fp16-00001-of-00002.safetensors")
    hub.repositories["models/stabilityai/sd3"] = FakeRepository(files | dict.fromkeys(loose, b"never fetched"))
    asked = random_sd3_config() | {"source": "stabilityai/sd3"}
    prefetch([replace(job(), model=asked)])
    snapshot = cached_snapshot("stabilityai/sd3", "main")
    here = {str(file.relative_to(snapshot)) for file in snapshot.rglob("*") if file.is_file()}
    assert here == files.keys() and missing(asked) is None


def test_a_text_is_two_clip_sequences_side_by_side_then_t5s():
    model = random_sd3_model()
    ids = model.pipe.tokenizer("a bomb", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        clip = [encoder(ids, output_hidden_states=True) for encoder in (model.pipe.text_encoder,
                                                                        model.pipe.text_encoder_2)]
    embeds = model.embed("a bomb")
    assert embeds.shape == (77 + T5_TOKENS, 32)
    assert torch.equal(embeds[:77, :32], torch.cat([one.hidden_states[-2][0] for one in clip], -1))
    assert torch.equal(model.pooled("a bomb"), torch.cat([one.text_embeds[0] for one in clip]))


def test_a_prompt_that_only_t5_cuts_is_flagged():
    assert not random_sd3_model().is_truncated("a bomb")
    assert random_sd3_model().is_truncated("a campfire at night")  # 17 letters and more for 16 places


def test_the_vaes_shift_is_undone_before_decoding():
    model, items = random_sd3_model(), make_items(1)
    with attached(model, [NoMethod()], [None]) as session:
        latents = session._latents(items, make_settings(STEPS))
    with torch.no_grad():
        decoded = model.pipe.vae.decode(latents / 1.5305 + 0.0609).sample
    image = model.pipe.image_processor.postprocess(decoded, output_type="np")[0]
    assert np.array_equal(drawn(NoMethod(), items)[0], (image * 255).round().astype(np.uint8))
