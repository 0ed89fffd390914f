"""DeepFloyd IF: pixels in stages, a learned variance, T5 texts. Stock parity, methods on the first stage, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.cells.fetching import prefetch
from harness.cells.job import Job
from harness.cli.compose import compose_jobs
from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.lib.targets import build
from harness.method import Method
from harness.models.choice import settled
from harness.models.families import family_of
from harness.models.loading import load_model
from harness.models.stages import stages_identity, stages_of
from harness.models.weights import missing, weights_fingerprint
from harness.sampling.session import attached
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.sld import SLD
from tests.sampling.test_denoiser import grey_levels, pixels
from tests.support.fake_hub import COMMIT, FakeRepository
from tests.support.fixtures_if import SIDES, if_config, if_model
from tests.support.fixtures_models import make_items, make_settings

STEPS = 3
DRAWN = ("none", "negative_prompt", "sld_medium", "sega", "trasce")
REFUSED = ("safree", "uce", "rece", "uce_debias", "safedir", "interpret_safe", "esd_x", "sdd", "concept_ablation",
           "hfi", "mace", "salun", "spm", "saeuron", "advunlearn", "concept_steerers")  # fmt: skip


@lru_cache(maxsize=1)
def configs() -> dict[str, Mapping[str, Any]]:
    names = [*DRAWN, *REFUSED]
    jobs = compose_jobs([f"method={','.join(names)}"], multirun=True)
    return {name: job.methods[0] for name, job in zip(names, jobs, strict=True)}


def drawn(method: Method, count: int = 2, stage: int = 1, items: Any = None) -> np.ndarray:
    with attached(if_model(stage), [method], [None]) as session:
        return pixels(session.generate(items or make_items(count), make_settings(STEPS, SIDES[stage - 1])))


def stock(count: int) -> list[torch.Tensor]:
    """Run the three stock pipelines, one after the other, as the published example does."""
    model, items = if_model(3), make_items(count)
    texts = [item.prompt for item in items]
    generators = [torch.Generator().manual_seed(item.seed) for item in items]
    embeds, negative = model.pipe.encode_prompt(texts)
    told = {"prompt_embeds": embeds, "negative_prompt_embeds": negative, "generator": generators, "output_type": "pt"}
    first = model.pipe(**told, num_inference_steps=STEPS, guidance_scale=5.0).images
    second = model.later[0](image=first, **told, num_inference_steps=2, guidance_scale=4.0, noise_level=250).images
    third = model.later[1](prompt=texts, negative_prompt=[""] * count, image=(second / 2 + 0.5).clamp(0, 1),
                           generator=generators, num_inference_steps=2, guidance_scale=9.0, noise_level=100,
                           output_type="pt").images
    return [(first / 2 + 0.5).clamp(0, 1), (second / 2 + 0.5).clamp(0, 1), third]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_none_is_the_stock_cascade_up_to_the_chosen_stage(stage):
    expected = (stock(2)[stage - 1].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    images = drawn(NoMethod(), stage=stage)
    assert images.shape[1] == SIDES[stage - 1] and grey_levels(images, expected) <= 1


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
def test_another_scheduler_takes_the_noise_without_the_variance(name):
    model = load_model(if_config() | {"scheduler": name})
    with attached(model, [NoMethod()], [None]) as session:
        images = pixels(session.generate(make_items(1), make_settings(STEPS, SIDES[0])))
    assert images.std() > 1 and not np.array_equal(images, drawn(NoMethod(), 1))


def test_an_image_does_not_depend_on_its_batch():
    together = drawn(NoMethod(), 3, stage=3)
    alone = drawn(NoMethod(), stage=3, items=make_items(3)[1:2])
    assert grey_levels(together[1:2], alone) <= 1


def test_guidance_scales_of_one_batch_are_those_of_single_runs():
    scales = (1.0, 3.0, 9.0)
    items = [replace(item, guidance_scale=w) for item, w in zip(make_items(3), scales, strict=True)]
    mixed = drawn(NoMethod(), items=items)
    for index, item in enumerate(items):
        assert grey_levels(mixed[index : index + 1], drawn(NoMethod(), items=[item])) <= 1


@pytest.mark.parametrize("on,off", [
    (SLD("a bomb", warmup=0, scale=5000.0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7),
     SLD("a bomb", warmup=0, scale=0.0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7)),
    (NegativePrompt("a bomb"), NegativePrompt("")),
])  # fmt: skip
def test_guidance_methods_act_on_the_first_stage_and_their_zero_is_none(on, off):
    plain = drawn(NoMethod())
    assert np.array_equal(drawn(off), plain)
    assert grey_levels(drawn(on), plain) > 1


def test_the_variance_stays_the_text_rows():
    seen: list[torch.Tensor] = []
    model = if_model(1)
    original = model.denoiser.forward

    def outer(*args: Any, **kwargs: Any) -> Any:
        (out,) = original(*args, **kwargs)
        seen.append(out)
        return (out,)

    model.denoiser.forward = outer
    answers: list[torch.Tensor] = []
    step = model.pipe.scheduler.step

    def kept(prediction: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answers.append(prediction)
        return step(prediction, *args, **kwargs)

    model.pipe.scheduler.step = kept
    try:
        drawn(SLD("a bomb", warmup=0, scale=5000.0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7))
    finally:
        del model.denoiser.forward, model.pipe.scheduler.step
    assert len(seen) == STEPS
    for out, answer in zip(seen, answers, strict=True):
        _, cond, concept = out.split(2)
        assert torch.equal(answer[:, 3:], cond[:, 3:])
        assert not torch.equal(cond[:, 3:], concept[:, 3:])


@pytest.mark.parametrize("preset", [*DRAWN, *REFUSED])
def test_a_method_draws_or_is_refused_with_the_reason(preset):
    method = build(configs()[preset])
    if preset in REFUSED:
        with pytest.raises(IncompatibleError, match="generates pixels in stages from T5"):
            method.check(if_config(), 5.0)
    else:
        method.check(if_config(), 5.0)
        assert drawn(method).shape == (2, SIDES[0], SIDES[0], 3)


def test_the_size_is_that_of_the_stage_and_no_other():
    assert [settled(if_config(stage))["size"] for stage in (1, 2, 3)] == list(SIDES)
    family = family_of(if_config())
    family.check_size(settled(if_config(2)), SIDES[1])
    for size in (512, "row"):
        with pytest.raises(IncompatibleError, match="no other size"):
            family.check_size(settled(if_config(2)), size)


def test_each_stage_is_another_model_and_its_settings_are_part_of_the_cell():
    names = {weights_fingerprint(if_config(stage)) for stage in (1, 2, 3)}
    assert len(names) == 3
    assert [one["noise_level"] for one in stages_identity(if_config(3))] == [250, 100]
    assert stages_identity(if_config(1)) == []


@pytest.mark.parametrize("change,error,said", [
    ({"stage": 4}, InvalidValueError, "stages 1 to 3"),
    ({"stage": "two"}, InvalidValueError, "stages 1 to 3"),
    ({"stages": "here"}, InvalidValueError, "expected a list"),
    ({"stages": [{"pipeline": "IFSuperResolutionPipeline"}]}, InvalidValueError, "stage 2 needs a source"),
    ({"stages": [{"source": "x/y"}]}, InvalidValueError, "stage 2 needs a pipeline"),
    ({"stages": [{"source": "x/y", "noise": 3}]}, UnknownNameError, "noise_level"),
])  # fmt: skip
def test_stages_that_are_wrong_are_refused_in_one_line(change, error, said):
    with pytest.raises(error, match=said) as raised:
        stages_of(if_config() | change)
    assert "\n" not in str(raised.value)


def test_a_stage_that_is_missing_is_named(tmp_path):
    config = if_config(2)
    config["stages"][0] = config["stages"][0] | {"source": str(tmp_path / "nowhere")}
    assert "stage 2" in (missing(config) or "")
    with pytest.raises(MissingResourceError, match="stage 2"):
        load_model(config)


def test_parts_that_a_stage_goes_without_need_not_be_there(tmp_path):
    import shutil

    config = if_config(2)
    shutil.copytree(config["stages"][0]["source"], tmp_path / "second")
    shutil.rmtree(tmp_path / "second" / "text_encoder")
    config["stages"][0] = config["stages"][0] | {"source": str(tmp_path / "second")}
    assert missing(config) is None and load_model(config).later[0].text_encoder is None


def test_prefetch_gets_each_stage_without_the_parts_that_it_goes_without(hub):
    config = if_config(2)
    folders = [config["source"], config["stages"][0]["source"]]
    for name, folder in zip(("DeepFloyd/IF-I", "DeepFloyd/IF-II"), map(Path, folders), strict=True):
        files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
        hub.repositories[f"models/{name}"] = FakeRepository(files)
    stage = config["stages"][0] | {"source": "DeepFloyd/IF-II", "revision": COMMIT}
    config |= {"source": "DeepFloyd/IF-I", "revision": COMMIT, "stages": [stage]}
    prefetch([Job({}, config, (), {"name": "micro_i2p"}, (), None)])
    assert missing(config) is None
    fetched = [path for path in hub.downloads if "IF-II" in path and path.endswith(".safetensors")]
    assert len(fetched) == 1 and "/unet/" in fetched[0]
