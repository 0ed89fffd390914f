"""Flux: packed latents, one row an image, guidance that the transformer reads. Stock parity and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pytest
import torch

from harness.cells.job import Job
from harness.cells.making import make_cell
from harness.cells.plan import cost_factor, denoiser_rows, make_plan
from harness.cli.compose import compose_jobs
from harness.errors import IncompatibleError
from harness.lib.targets import build
from harness.method import Method
from harness.models.choice import settled
from harness.models.loaded import LoadedModel
from harness.records import ImageItem
from harness.sampling.prediction_types import predict_epsilon
from harness.sampling.session import attached
from methods.none import NoMethod
from methods.prompt_filter import PromptFilter
from tests.models.test_family_sdxl import told_to_the_denoiser
from tests.sampling.test_denoiser import grey_levels, pixels, run
from tests.support.fixtures_flow import T5_TOKENS, random_flux_config, random_flux_model
from tests.support.fixtures_models import SIZE, make_items, make_settings
from tests.support.methods_registry import configs

STEPS = 3
KINDS = ("schnell", "dev")
WORKING = ("none", "prompt_filter")
REFUSED = ("negative_prompt", "sld_medium", "sega", "trasce", "safree", "safedir", "esd_x", "sdd", "concept_ablation",
           "interpret_safe", "uce", "rece", "uce_debias", "hfi", "mace", "spm", "saeuron", "advunlearn",
           "concept_steerers", "prompt_filter_embedding")  # fmt: skip


def model_of(kind: str) -> LoadedModel:
    return random_flux_model(kind == "dev")


def drawn(kind: str, items: list[ImageItem], method: Method | None = None) -> np.ndarray:
    return pixels(run(model_of(kind), [method or NoMethod()], items, steps=STEPS))


def stock(kind: str, items: list[ImageItem], **texts: object) -> np.ndarray:
    texts = texts or {"prompt": [item.prompt for item in items], "max_sequence_length": T5_TOKENS}
    images = model_of(kind).pipe(
        **texts, num_inference_steps=STEPS, height=SIZE, width=SIZE, guidance_scale=items[0].guidance_scale,
        generator=[torch.Generator().manual_seed(item.seed) for item in items]).images  # fmt: skip
    return np.stack([np.asarray(image) for image in images])


@dataclass(frozen=True)
class Mover(Method):
    """Moves the text embeddings."""

    name: str = "mover"
    kind: ClassVar[str] = "mover"

    def embeds(self, ctx, bundle):
        assert not bundle.uncond.any() and 0 < float(ctx.t) <= 1000
        return replace(bundle, cond=bundle.cond + 1, pooled_cond=bundle.pooled_cond + 1)


@lru_cache(maxsize=1)
def flux_dev() -> Job:
    """Return a job of the shipped config, as the command line composes it."""
    return compose_jobs(["method=none", "model=flux_dev", "bench=micro_i2p"], multirun=False)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_the_stock_pipeline(kind):
    items = make_items(2)
    assert grey_levels(drawn(kind, items), stock(kind, items)) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_told_the_same_embeddings_it_is_stock_to_the_bit(kind):
    model, items = model_of(kind), make_items(2)
    embeds = {"prompt_embeds": model.encode([item.prompt for item in items]),
              "pooled_prompt_embeds": torch.stack([model.pooled(item.prompt) for item in items])}
    assert np.array_equal(drawn(kind, items), stock(kind, items, **embeds))


def test_dev_reads_each_images_own_guidance_scale():
    items = [replace(item, guidance_scale=w) for item, w in zip(make_items(2), [1.5, 9.0], strict=True)]
    mixed = drawn("dev", items)
    for index, item in enumerate(items):
        alone = drawn("dev", [replace(other, guidance_scale=item.guidance_scale) for other in items])
        assert np.array_equal(mixed[index], alone[index])
    assert grey_levels(mixed, drawn("dev", [replace(item, guidance_scale=1.5) for item in items])) > 1


def test_schnell_reads_none():
    assert np.array_equal(drawn("schnell", make_items(2, 1.0)), drawn("schnell", make_items(2, 9.0)))
    with told_to_the_denoiser(model_of("schnell")) as calls:
        drawn("schnell", make_items(1))
    assert calls[0]["guidance"] is None and len(calls[0]["hidden_states"]) == 1


def test_an_image_does_not_depend_on_its_company():
    items = make_items(3)
    together = drawn("dev", items)
    for index, item in enumerate(items):
        assert grey_levels(drawn("dev", [item, *make_items(2, first_seed=90)])[0], together[index]) <= 1


def test_noise_is_packed_as_the_pipeline_packs_its_own():
    model, items = model_of("dev"), make_items(1)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(items[0].seed))
    with told_to_the_denoiser(model) as calls, attached(model, [NoMethod()], [None]) as session:
        session._latents(items, make_settings(1))
    patches = noise.view(1, 4, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5)
    assert torch.equal(calls[0]["hidden_states"], patches.reshape(1, 16, 16))


def test_edited_embeddings_reach_the_transformer():
    items = make_items(2)
    with told_to_the_denoiser(model_of("dev")) as calls:
        moved = drawn("dev", items, Mover())
    expected = torch.stack([model_of("dev").pooled(item.prompt) + 1 for item in items])
    assert torch.equal(calls[0]["pooled_projections"], expected) and grey_levels(moved, drawn("dev", items)) > 1


def test_it_is_not_run_outside_of_its_pipeline():
    model = model_of("dev")
    with pytest.raises(IncompatibleError, match="runs in its pipeline only"):
        predict_epsilon(model, model.pipe.scheduler, torch.zeros(1, 16, 16), torch.tensor(1.0), model.encode([""]))


def test_a_folder_tells_that_it_has_no_negative_branch():
    found = settled(random_flux_config() | {"family": None})
    assert found["family"] == "flux" and found["negative_branch"] is False


def test_a_text_is_t5s_sequence_and_clips_pooled_vector_and_both_cut():
    model = model_of("dev")
    assert model.embed("a bomb").shape == (T5_TOKENS, 32) and model.pooled("a bomb").shape == (16,)
    assert model.is_truncated("a campfire at night") and not model.is_truncated("a bomb")


@pytest.mark.parametrize("preset", REFUSED)
def test_what_cannot_work_is_refused_with_the_reason_when_planned(preset):
    own = {"concepts": ["a"], "threshold": 0.5} if "filter" in preset else {}
    method = build({**configs()[preset], **own})
    assert isinstance(method, Method)
    with pytest.raises(IncompatibleError, match=r"no unconditional branch|its transformer has no such parts") as caught:
        method.check(settled(flux_dev().model), 3.5)
    assert "flux_dev" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", WORKING)
def test_what_works_is_planned_with_one_row_a_step(preset, tmp_path):
    cell = _cell(replace(flux_dev(), methods=(configs()[preset],)), tmp_path)
    assert denoiser_rows(cell) == 1 and cost_factor(cell) == 1
    assert cell.items()[0].guidance_scale == 3.5


def test_a_word_filter_refuses_on_it():
    results = run(model_of("dev"), [PromptFilter(words=["campfire"])], make_items(2), steps=STEPS)
    assert [result.status.value for result in results] == ["ok", "refused"]


def test_a_scale_that_schnell_does_not_read_is_not_in_its_cell_and_the_plan_says_so(tmp_path):
    job = flux_dev()
    model = {**job.model, "name": "flux_schnell", "guidance_scale": 0.0, "reads_guidance": False}
    cells = [_cell(replace(job, model=model, bench={**job.bench, "guidance_scale": scale}), tmp_path)
             for scale in (None, 7.5)]
    assert cells[0].cell_id == cells[1].cell_id and cells[1].items()[0].guidance_scale == 0
    notes = make_plan(cells, tmp_path, 1, verify=False).cells[1].notes
    assert any("ignores the guidance scale set by" in note for note in notes)


def test_prompts_with_a_negative_prompt_of_their_own_are_refused(tmp_path):
    from harness.bench import load_prompts

    job = flux_dev()
    prompts = load_prompts(job.bench, offline=True)
    rows = tuple(replace(row, negative_prompt="a hat") for row in prompts.rows[:2])
    with pytest.raises(IncompatibleError, match="2 prompts of micro_i2p have a negative prompt"):
        _cell(job, tmp_path, replace(prompts, rows=rows))


def _cell(job: Job, results, prompts=None):
    from harness.bench import load_prompts

    job = replace(job, settings={**job.settings, "results": str(results)}, evaluators=())
    return make_cell(job, prompts or load_prompts(job.bench, offline=True))
