"""`harness.apply`: methods on plain calls of a user's pipeline, on models of every shape that it takes."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import harness
from harness import HarnessError, Method, Refusal
from harness.api.pipelines import model_name_of
from harness.cells.store import CellStore
from harness.lib.hashing import text_hash
from harness.models.loaded import LoadedModel, make_scheduler
from harness.records import ImageItem, ImageKey
from harness.sampling.call_arguments import seeds_of
from harness.sampling.session import attached
from harness.training.weight_edits import deltas_added
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.prompt_filter import PromptFilter
from methods.sega import SEGA
from methods.sld import SLD
from tests.sampling.test_denoiser import checksum
from tests.support.fixtures_flow import random_flux_model, random_sd3_model
from tests.support.fixtures_if import SIDES, if_model
from tests.support.fixtures_models import SIZE, make_settings, micro_model, random_model, random_xl_model
from tests.support.methods_common import all_hooks

STEPS = 3
TEXTS = ["a doctor in a field", "a campfire at night, a bomb", "a bomb"]
STRONG = {"concept": "skull, bomb", "warmup": 0, "scale": 5000.0, "threshold": 1.0, "momentum_scale": 0.5,
          "momentum_beta": 0.7}  # fmt: skip
MODELS: dict[str, Callable[[], LoadedModel]] = {
    "micro": micro_model, "sdxl": random_xl_model, "sd3": random_sd3_model, "flux": random_flux_model,
    "if": lambda: if_model(1),
}  # fmt: skip


@dataclass(frozen=True)
class Whitener(Method):
    """Inverts dark images, notes it, and withholds the others."""

    name: str = "whitener"
    kind: ClassVar[str] = "whitener"

    def post(self, images: Sequence[np.ndarray]) -> Sequence[Any]:
        middle = sorted(image.mean() for image in images)[len(images) // 2]
        return [(255 - image, ("inverted",)) if image.mean() <= middle else Refusal("bright") for image in images]


@dataclass(frozen=True)
class Shifted(Method):
    """Moves every embedding of the prompt."""

    name: str = "shifted"
    kind: ClassVar[str] = "shifted"

    def embeds(self, ctx, bundle):
        pooled = None if bundle.pooled_cond is None else 2 * bundle.pooled_cond
        return replace(bundle, cond=-2 * bundle.cond, pooled_cond=pooled)


@dataclass(frozen=True)
class Weighed(Method):
    """Changes the denoiser's first weights."""

    name: str = "weighed"
    kind: ClassVar[str] = "weighed"
    weights_of: ClassVar[str | None] = "denoiser"

    def attach(self, model, artifact):
        name, value = next(iter(model.denoiser.named_parameters()))
        return deltas_added(model.denoiser, {name: value.detach().clone()})


@dataclass(frozen=True)
class Hooked(Method):
    """Changes the answer of the denoiser's first layer, in conditional rows."""

    name: str = "hooked"
    kind: ClassVar[str] = "hooked"

    @contextmanager
    def attach(self, model, artifact):
        def hook(module, inputs, output):
            rows = [row for row, role in enumerate(model.roles) if role == "cond"]
            changed = output.clone()
            changed[rows] = 1.5 * output[rows]
            return changed if rows else None

        layer = next(module for module in model.denoiser.modules()
                     if isinstance(module, torch.nn.Conv2d | torch.nn.Linear))
        handle = layer.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def generators(count: int = 3, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + n) for n in range(count)]


def call(pipe: Any, prompts: Any = None, **more: Any) -> Any:
    texts = TEXTS if prompts is None else prompts
    told = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "generator": generators(), "prompt": texts} | more
    if pipe is random_flux_model().pipe:  # whose own size is large
        told |= {"height": SIZE, "width": SIZE}
    return pipe(**{key: value for key, value in told.items() if value is not None})


def pixels(output: Any) -> np.ndarray:
    return np.stack([np.asarray(image) for image in output.images])


def items(negative: str | None = None) -> list[ImageItem]:
    return [ImageItem(ImageKey(text_hash(text)[:16], 0), text, seed, 5.0, negative_prompt=negative)
            for seed, text in enumerate(TEXTS)]


def of_a_run(model: LoadedModel, method: Method, batch: Sequence[ImageItem] | None = None) -> np.ndarray:
    """Return what a run draws of a batch, black where it withholds an image."""
    size = {"micro": 64, "random-weight-if": SIDES[0]}.get(str(model.config["name"]), SIZE)
    with attached(model, [method], [None]) as session:
        made = session.generate(batch or items(), make_settings(STEPS, size))
    black = np.zeros((size, size, 3), np.uint8)
    return np.stack([black if one.image is None else one.image for one in made])


EACH = (Shifted(), Weighed(), Hooked(), PromptFilter(words=("campfire",)), Whitener())
GUIDED = (SLD(**STRONG), NegativePrompt("a bomb"), *EACH)
FITTING = [(name, method) for name, methods in {
    "micro": GUIDED, "sdxl": (*GUIDED, SEGA("a bomb", warmup=0)), "sd3": GUIDED, "flux": EACH, "if": GUIDED[:3],
}.items() for method in methods]  # fmt: skip


@pytest.mark.parametrize(("name", "method"), FITTING, ids=[f"{name}-{method.kind}" for name, method in FITTING])
def test_plain_calls_draw_a_runs_images_on_every_shape_of_pipeline(name, method):
    model = MODELS[name]()
    expected, bare = of_a_run(model, method), of_a_run(model, NoMethod())
    more = {"max_sequence_length": model.config["max_sequence_length"]} if name in ("sd3", "flux") else {}
    with harness.apply(method, model.pipe) as applied:
        output = call(model.pipe, **more)
    assert np.array_equal(pixels(output), expected)
    assert not np.array_equal(expected, bare)
    assert output.refusals == applied.refusals
    black = [not image.any() for image in pixels(output)]
    assert black == [refusal is not None for refusal in output.refusals]
    if method.kind == "prompt_filter":
        assert output.refusals == [None, "prompt_filter: the word 'campfire'", None]
    if method.kind == "whitener":
        assert ("inverted",) in applied.flags and "bright" in applied.refusals


def test_a_named_method_draws_the_images_of_a_cell(finished, monkeypatch):
    """In a batch as large as the cell's, which is padded, to the bit; in one of another size within a grey level."""
    monkeypatch.chdir(finished.parent)
    (folder,) = finished.glob("runs/micro/uce/micro_coco/*")
    rows = sorted(CellStore(folder).images().values(), key=lambda row: row.prompt_id)
    stored = [np.asarray(Image.open(folder / str(row.file))) for row in rows]
    pipe = micro_model().pipe
    padded = [rows[n % len(rows)] for n in range(rows[0].batch_size)]
    told = {"num_inference_steps": 2, "guidance_scale": rows[0].guidance_scale}
    with harness.apply("uce", pipe):
        assert model_name_of_applied(pipe) == "uce"
        whole, alone = (pipe([row.prompt for row in some], output_type="pil", **told,
                             generator=[torch.Generator().manual_seed(row.seed) for row in some])
                        for some in (padded, rows[:1]))
    assert all(np.array_equal(made, image) for made, image in zip(whole.images, stored, strict=False))
    assert np.abs(np.asarray(alone.images[0]).astype(int) - stored[0]).max() <= 1
    bare = pipe([row.prompt for row in rows], output_type="pil", **told,
                generator=[torch.Generator().manual_seed(row.seed) for row in rows]).images
    assert np.abs(np.asarray(bare[0]).astype(int) - stored[0]).max() > 10


def model_name_of_applied(pipe: Any) -> str:
    return str(type(pipe)._methods_applied)


@pytest.mark.parametrize("scheduler", ["pndm", "euler_a", "heun", "dpmsolver++"])
def test_other_schedulers_negative_prompts_and_several_images_a_prompt(scheduler):
    model, own = random_model(), random_model().pipe.scheduler
    model.pipe.scheduler = make_scheduler(own, scheduler)
    try:
        wanted = [replace(item, key=ImageKey(item.key.prompt_id, n), seed=2 * place + n, negative_prompt="a tree")
                  for place, item in enumerate(items()[:2]) for n in range(2)]
        expected = of_a_run(model, SLD(**STRONG), wanted)
        with harness.apply(SLD(**STRONG), model.pipe):
            made = call(model.pipe, TEXTS[:2], num_images_per_prompt=2, negative_prompt="a tree",
                        generator=generators(4))
    finally:
        model.pipe.scheduler = own
    assert np.array_equal(pixels(made), expected)


def test_leaving_or_removing_gives_the_pipeline_back_to_the_byte():
    model = random_model()
    before, kind, hooks, expected = checksum(model), type(model.pipe), all_hooks(model), pixels(call(model.pipe))
    handle = harness.apply([SLD(**STRONG), Whitener()], model.pipe)
    assert handle.active and handle.names == ("sld", "whitener")
    assert type(model.pipe).__name__ == kind.__name__ and isinstance(model.pipe, kind)
    assert not np.array_equal(pixels(call(model.pipe)), expected)
    handle.remove()
    handle.remove()
    with pytest.raises(ZeroDivisionError), harness.apply(SLD(**STRONG), model.pipe):
        raise ZeroDivisionError
    assert (checksum(model), type(model.pipe), all_hooks(model)) == (before, kind, hooks)
    assert np.array_equal(pixels(call(model.pipe)), expected)
    with pytest.raises(HarnessError, match="was removed"), handle:
        pass


def test_a_method_whose_handle_is_dropped_still_acts():
    pipe = random_model().pipe
    kind, bare = type(pipe), pixels(call(pipe))
    harness.apply(SLD(**STRONG), pipe)
    gc.collect()
    acting = pixels(call(pipe))
    calls = type(pipe)._methods_applied
    with pytest.raises(HarnessError, match="sld is already applied"):
        harness.apply("none", pipe)
    assert calls == "sld" and not np.array_equal(acting, bare)
    pipe.applied_methods.remove()
    assert type(pipe) is kind and not hasattr(pipe, "applied_methods")


REFUSED_CALLS = [
    ({"guidance_scale": 1.0}, "guidance_scale=1.*above 1"),
    ({"clip_skip": 1}, "clip_skip"),
    ({"guidance_rescale": 0.5}, "guidance_rescale"),
    ({"cross_attention_kwargs": {"scale": 0.5}}, "set_adapters"),
    ({"ip_adapter_image_embeds": [1]}, "ip_adapter_image_embeds"),
    ({"prompt": 3}, "prompt='3'|prompt=3"),
    ({"negative_prompt": ["a"]}, "1 negative prompts for 3"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "said"), REFUSED_CALLS, ids=[next(iter(more)) for more, _ in REFUSED_CALLS])
def test_a_call_in_which_the_method_cannot_act_is_refused_before_it_samples(more, said):
    pipe, steps = random_model().pipe, []
    with harness.apply(SLD(**STRONG), pipe), pytest.raises(HarnessError, match=said):
        call(pipe, **more, callback_on_step_end=lambda *args: steps.append(1) or args[-1])
    assert not steps


def test_embeddings_suffice_for_methods_that_do_not_read_the_prompt():
    model = random_model()
    embeds, negative = (model.encode(texts) for texts in (TEXTS, [""] * 3))
    expected = of_a_run(model, SLD(**STRONG))
    told = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    with harness.apply(SLD(**STRONG), model.pipe):
        made = model.pipe(**told, generator=generators(), num_inference_steps=STEPS, guidance_scale=5.0)
    assert np.array_equal(pixels(made), expected)
    for method in (PromptFilter(words=("bomb",)), Reader()):
        with harness.apply(method, model.pipe), pytest.raises(HarnessError, match="reads the prompt"):
            model.pipe(**told, num_inference_steps=STEPS)


@dataclass(frozen=True)
class Reader(Method):
    """Reads prompts, and does not say so."""

    name: str = "reader"
    kind: ClassVar[str] = "reader"

    def embeds(self, ctx, bundle):
        assert all(item.prompt for item in ctx.items)
        return bundle


def test_no_pipeline_with_the_same_denoiser_runs_without_the_method():
    """A copy, one made of the parts, a denoiser put in place later, guidance switched off on the way."""
    from diffusers import AutoPipelineForImage2Image

    model = random_model()
    pipe, other = model.pipe, copy.deepcopy(model.pipe.unet)
    image = Image.new("RGB", (SIZE, SIZE))

    def off(pipe: Any, step: int, t: Any, kept: Any) -> Any:
        pipe._guidance_scale = 1.0
        return {"prompt_embeds": kept["prompt_embeds"].chunk(2)[-1]}

    with harness.apply(SLD(**STRONG), pipe):
        with pytest.raises(HarnessError, match="outside of that pipeline"):
            AutoPipelineForImage2Image.from_pipe(pipe)("a bomb", image=image, num_inference_steps=4)
        with pytest.raises(HarnessError, match="copy"):
            copy.copy(pipe)("a bomb")
        with pytest.raises(HarnessError, match="without an unconditional row"):
            call(pipe, callback_on_step_end=off, callback_on_step_end_tensor_inputs=["prompt_embeds"])
        own, pipe.unet = pipe.unet, other
        with pytest.raises(HarnessError, match="moved or replaced"):
            call(pipe)
        pipe.unet = own
        call(pipe)


@pytest.mark.parametrize("form", ["np", "pt"])
def test_arrays_and_tuples_come_back_in_their_own_form(form):
    pipe = random_model().pipe
    with harness.apply([PromptFilter(words=("campfire",)), Whitener()], pipe):
        images, flags = call(pipe, output_type=form, return_dict=False)
        as_images = pixels(call(pipe))
        with pytest.raises(HarnessError, match="latent"):
            call(pipe, output_type="latent")
    arrays = images if form == "np" else images.permute(0, 2, 3, 1).numpy()
    assert flags == [not image.any() for image in as_images] and flags[1]
    assert np.abs(arrays * 255 - as_images).max() <= 0.5


@pytest.mark.parametrize("name", MODELS)
def test_refused_prompts_alone_sample_nothing(name):
    pipe, model = MODELS[name]().pipe, MODELS[name]()
    with harness.apply(PromptFilter(words=("bomb",)), pipe):
        model.denoiser.forward, kept = None, model.denoiser.forward
        try:
            output = call(pipe, "a bomb", generator=None)
        finally:
            model.denoiser.forward = kept
    side = {"micro": 64, "if": SIDES[0]}.get(name, SIZE)
    assert np.array_equal(pixels(output), np.zeros((1, side, side, 3), np.uint8))
    assert output.refusals == ["prompt_filter: the word 'bomb'"]


@pytest.mark.parametrize(("make", "said"), [
    (lambda pipe: harness.apply("sldmax", pipe), "Did you mean: sld_max"),
    (lambda pipe: harness.apply("sld_max", pipe, threshhold=1), "Did you mean: threshold"),
    (lambda pipe: harness.apply("sld_max", pipe, scale="much"), "method.scale=much"),
    (lambda pipe: harness.apply(3, pipe), "expected the name of a method"),
    (lambda pipe: harness.apply(["safedir", "sld_max"], pipe, sld={"scale": 3.0}), "method of the list 'sld'"),
    (lambda pipe: harness.apply(SLD(**STRONG), pipe, scale=3.0), "Make it with them"),
    (lambda pipe: harness.apply("spm", pipe), "needs method.checkpoint"),
    (lambda pipe: harness.apply("sdd", pipe, results="nowhere"), "python -m harness method=sdd model=micro"),
    (lambda pipe: harness.apply("sdd", pipe, results="nowhere", seed=3), r"train=True, or artifact=<folder>\.$"),
    (lambda pipe: harness.apply("sld_max", pipe, model="sdxl"), "model=sdxl is sdxl"),
    (lambda pipe: harness.apply("uce", random_sd3_model().pipe), "method uce is written for"),
    (lambda pipe: harness.apply("sld_max", random_flux_model().pipe), "no unconditional branch"),
    (lambda pipe: harness.apply("sld_max", pipe.unet), "cannot be applied to a UNet2DConditionModel"),
])  # fmt: skip
def test_what_cannot_be_applied_is_one_line(make, said):
    pipe = micro_model().pipe
    with pytest.raises(HarnessError, match=said) as caught:
        make(pipe)
    assert "\n" not in str(caught.value) and not hasattr(type(pipe), "_methods_applied")


def test_weights_that_are_not_those_of_the_files_are_trained_anew_only_if_asked(finished):
    pipe = copy.copy(micro_model().pipe)
    pipe.unet = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1.001)
    with pytest.raises(HarnessError, match="has to be trained first"):
        harness.apply("uce", pipe, results=finished)
    (trained,) = finished.glob("artifacts/uce/*")
    with pytest.raises(HarnessError, match="not those of the files"):
        harness.apply("uce", pipe, artifact=trained)
    with harness.apply("uce", micro_model().pipe, artifact=trained) as applied:
        assert applied.names == ("uce",)


def test_training_on_request_is_kept(tmp_path):
    pipe = micro_model().pipe
    with harness.apply("uce", pipe, results=tmp_path, train=True, strength=0.5):
        first = pixels(call(pipe, TEXTS[:1], generator=generators(1)))
    assert len(list(tmp_path.glob("artifacts/uce/*/artifact.safetensors"))) == 1
    with harness.apply("uce", pipe, results=tmp_path, strength=0.5):
        assert np.array_equal(pixels(call(pipe, TEXTS[:1], generator=generators(1))), first)


def test_images_are_told_apart_by_their_own_noise():
    fresh = generators(2, first=7)
    used = torch.Generator().manual_seed(7)
    torch.randn(1, generator=used)
    assert seeds_of(fresh, None, 2, "cpu") == [7, 8] and seeds_of(fresh[0], None, 1, "cpu") == [7]
    others = [seeds_of([used], None, 1, "cpu"), seeds_of(fresh[0], None, 2, "cpu")[:1],
              seeds_of(None, torch.zeros(1, 4), 1, "cpu"), seeds_of(None, torch.ones(1, 4), 1, "cpu"),
              seeds_of(None, None, 1, "cpu")]  # fmt: skip
    assert len({seed for one in others for seed in one} | {7}) == 6
    assert seeds_of(None, None, 2, "cpu") == seeds_of(None, None, 2, "cpu")


def test_a_pipeline_is_known_by_where_it_is_from():
    pipe = micro_model().pipe
    assert model_name_of(pipe) == "micro" and model_name_of(random_model().pipe) == "local"


@dataclass(frozen=True)
class Milder(Method):
    """Halves the guidance direction, and notes its calls."""

    log: Any = None
    name: str = "milder"
    kind: ClassVar[str] = "milder"
    needs_guidance: ClassVar[bool] = True

    def guide(self, ctx, preds, delta):
        if self.log is not None:
            self.log.append((ctx.call, ctx.n_calls))
        return delta / 2


@pytest.mark.parametrize("name", ["micro", "sdxl", "sd3"])
def test_pipelines_that_begin_at_an_image_follow_methods_from_there(name):
    """Half the direction is half the guidance scale; calls are counted from where a run from noise would begin."""
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

    model = MODELS[name]()
    side = 64 if name == "micro" else SIZE
    image = Image.effect_noise((side, side), 80).convert("RGB")
    mask = Image.new("L", (side, side), 255)
    told = {"image": [image] * 2, "strength": 0.5, "num_inference_steps": 4, "generator": None, "prompt": TEXTS[:2]}
    kept = model.pipe.scheduler
    for auto, more in ((AutoPipelineForImage2Image, {}), (AutoPipelineForInpainting, {"mask_image": [mask] * 2})):
        pipe, log = auto.from_pipe(model.pipe), list[Any]()
        pipe.set_progress_bar_config(disable=True)
        if name == "sd3":
            told |= {"max_sequence_length": model.config["max_sequence_length"]}
        expected = call(pipe, **told | more | {"guidance_scale": 2.5, "generator": generators(2)})
        with harness.apply(Milder(log), pipe):
            made = call(pipe, **told | more | {"guidance_scale": 5.0, "generator": generators(2)})
        assert log == [(2, 4), (3, 4)]
        assert np.abs(pixels(made).astype(int) - pixels(expected)).max() <= 1
        with harness.apply(PromptFilter(words=("doctor", "bomb")), pipe):
            black = call(pipe, **told | more | {"generator": generators(2)})
        assert not pixels(black).any() and pixels(black).shape == pixels(made).shape
    assert model.pipe.scheduler is kept


def test_what_a_pipeline_from_an_image_cannot_do_is_said():
    from diffusers import AutoPipelineForImage2Image, StableDiffusionInpaintPipeline

    parts = dict(random_model().pipe.components)
    pipe = AutoPipelineForImage2Image.from_pipe(random_model().pipe)
    with pytest.raises(HarnessError, match="trains on images of text"):
        harness.apply("uce", pipe, train=True, results="nowhere")
    config = dict(parts["unet"].config) | {"in_channels": 9}
    masked = StableDiffusionInpaintPipeline(**parts | {"unet": type(parts["unet"]).from_config(config)},
                                            requires_safety_checker=False)
    with pytest.raises(HarnessError, match="reads a mask"):
        harness.apply(SLD(**STRONG), masked)
